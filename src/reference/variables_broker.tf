# Printed by `sandbox-broker reference ranges`. Change src/config.rs or src/reference/, not this file.
#
# The broker's own settings by the names of their environment variables in lower case; null leaves the broker's default.
# docs/reference/settings.md is their manual.

locals {
  # The broker checks the ranges again when it starts.
  setting_ranges = {
    # RANGES
  }
  fractional_settings = [
    # FRACTIONAL
  ]
}

variable "settings" {
  description = "Settings of the broker by the names of its environment variables in lower case; null leaves the broker's default."
  type = object({
    # TYPES
  })
  default = {}

  validation {
    condition = alltrue([
      for name, range in local.setting_ranges : var.settings[name] == null ? true : (
        var.settings[name] >= range[0] && var.settings[name] <= range[1] &&
        (floor(var.settings[name]) == var.settings[name] || contains(local.fractional_settings, name))
      )
    ])
    error_message = "settings has numbers out of range: ${join("; ", [
      for name, range in local.setting_ranges :
      "${name} takes ${contains(local.fractional_settings, name) ? "a number" : "a whole number"} from ${range[0]} to ${range[1]}"
      if var.settings[name] == null ? false : !(
        var.settings[name] >= range[0] && var.settings[name] <= range[1] &&
        (floor(var.settings[name]) == var.settings[name] || contains(local.fractional_settings, name))
      )
    ])}."
  }

  validation {
    condition     = contains(["http", "sim"], var.settings.csp_mode)
    error_message = "settings.csp_mode takes http or sim."
  }

  validation {
    condition     = var.settings.log_level == null || can(regex("^[A-Za-z0-9_=,:]+$", var.settings.log_level))
    error_message = "settings.log_level takes a level (error, warn, info, debug, trace) or a filter. Alarms need info or more."
  }

  validation {
    condition = alltrue([
      for url in [var.settings.ddb_endpoint_url, var.settings.otel_exporter_otlp_endpoint] : url == null || can(regex("^https?://[^/\\s]+", url))
    ])
    error_message = "settings.ddb_endpoint_url and settings.otel_exporter_otlp_endpoint take http or https URLs."
  }

  validation {
    condition     = var.settings.backoff_base_ms <= var.settings.backoff_max_ms
    error_message = "settings.backoff_base_ms takes no more than backoff_max_ms."
  }
}
