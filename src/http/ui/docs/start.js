"use strict";

// Tokens that are entered here live as long as the page: persistAuthorization stays off.
SwaggerUIBundle({
  url: "/v1/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  // Its validator would be asked on another host.
  validatorUrl: null,
});
