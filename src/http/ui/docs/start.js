"use strict";

// Tokens live as long as the page: persistAuthorization stays off.
SwaggerUIBundle({
  url: "/v1/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  // The validator is on another host.
  validatorUrl: null,
});
