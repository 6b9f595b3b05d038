# Printed by `sandbox-broker reference ranges`. Change src/config.rs or src/reference/, not this file.
#
# The broker's own settings by the names of their environment variables in lower case; null leaves the broker's default.
# docs/reference/settings.md is their manual.

locals {
  # The broker checks the ranges again when it starts.
  setting_ranges = {
    allocate_timeout_ms            = [100, 60000]
    allocate_wait_sec              = [0, 50]
    audit_retention_days           = [1, 3650]
    auto_expiry_interval_sec       = [1, 604800]
    available_min_age_sec          = [0, 86400]
    backoff_base_ms                = [1, 60000]
    backoff_max_ms                 = [1, 60000]
    broker_new_per_minute          = [0, 4294967295]
    circuit_breaker_threshold      = [1, 1000]
    circuit_breaker_timeout_sec    = [1, 86400]
    cleanup_concurrency            = [1, 100]
    cleanup_interval_sec           = [1, 604800]
    cleanup_per_sandbox_delay_sec  = [0, 3600]
    control_poll_sec               = [1, 4]
    csp_sim_sandboxes              = [0, 100000]
    csp_timeout_connect_sec        = [1, 300]
    csp_timeout_read_sec           = [1, 300]
    deleted_retention_hours        = [0, 8760]
    deletion_give_up_hours         = [0.0167, 8760]
    deletion_retry_max_attempts    = [0, 10000]
    grace_period_minutes           = [0, 525600]
    job_lease_sec                  = [3, 3600]
    k_candidates                   = [0, 10000]
    lab_duration_hours             = [0.0003, 8760]
    max_holding_hours              = [0.0003, 8760]
    max_in_flight                  = [1, 100000]
    max_waiting                    = [1, 100000]
    niosxaas_per_sandbox_delay_sec = [0, 3600]
    niosxaas_timeout_sec           = [1, 300]
    no_supply_after_sec            = [1, 86400]
    pool_refresh_interval_sec      = [1, 3600]
    pool_stats_interval_sec        = [1, 3600]
    rate_limit_burst               = [1, 4294967295]
    rate_limit_rps                 = [0, 4294967295]
    rate_limit_token_rps           = [0, 4294967295]
    shutdown_grace_sec             = [1, 115]
    stale_grace_hours              = [0, 8760]
    stale_interval_sec             = [1, 604800]
    standby_max_hours              = [0.0003, 8760]
    sync_interval_sec              = [1, 604800]
    sync_max_stale_percent         = [0, 100]
    trusted_proxies                = [0, 16]
  }
  fractional_settings = [
    "cleanup_per_sandbox_delay_sec",
    "deleted_retention_hours",
    "deletion_give_up_hours",
    "grace_period_minutes",
    "lab_duration_hours",
    "max_holding_hours",
    "niosxaas_per_sandbox_delay_sec",
    "stale_grace_hours",
    "standby_max_hours",
  ]
}

variable "settings" {
  description = "Settings of the broker by the names of its environment variables in lower case; null leaves the broker's default."
  type = object({
    allocate_timeout_ms            = optional(number)
    allocate_wait_sec              = optional(number, 20)
    audit_retention_days           = optional(number)
    auto_expiry_interval_sec       = optional(number, 900)
    available_min_age_sec          = optional(number)
    backoff_base_ms                = optional(number, 100)
    backoff_max_ms                 = optional(number, 5000)
    broker_new_per_minute          = optional(number)
    circuit_breaker_threshold      = optional(number)
    circuit_breaker_timeout_sec    = optional(number)
    cleanup_concurrency            = optional(number)
    cleanup_interval_sec           = optional(number, 300)
    cleanup_per_sandbox_delay_sec  = optional(number)
    compat_error_detail            = optional(string)
    control_poll_sec               = optional(number)
    csp_allow_http                 = optional(string)
    csp_mode                       = optional(string, "http")
    csp_sim_sandboxes              = optional(number)
    csp_timeout_connect_sec        = optional(number)
    csp_timeout_read_sec           = optional(number)
    ddb_endpoint_url               = optional(string)
    deleted_retention_hours        = optional(number)
    deletion_give_up_hours         = optional(number)
    deletion_retry_max_attempts    = optional(number)
    grace_period_minutes           = optional(number)
    job_lease_sec                  = optional(number)
    k_candidates                   = optional(number)
    lab_duration_hours             = optional(number, 4)
    log_level                      = optional(string)
    max_holding_hours              = optional(number)
    max_in_flight                  = optional(number)
    max_waiting                    = optional(number)
    niosxaas_base_url              = optional(string)
    niosxaas_email                 = optional(string)
    niosxaas_enabled               = optional(string)
    niosxaas_per_sandbox_delay_sec = optional(number)
    niosxaas_service_name          = optional(string)
    niosxaas_shadow_mode           = optional(string)
    niosxaas_timeout_sec           = optional(number)
    no_supply_after_sec            = optional(number)
    otel_exporter_otlp_endpoint    = optional(string)
    pool_refresh_interval_sec      = optional(number)
    pool_stats_interval_sec        = optional(number)
    rate_limit_burst               = optional(number)
    rate_limit_rps                 = optional(number)
    rate_limit_token_rps           = optional(number)
    require_track_secret           = optional(string)
    shutdown_grace_sec             = optional(number, 25)
    stale_grace_hours              = optional(number)
    stale_interval_sec             = optional(number, 86400)
    standby_max_hours              = optional(number)
    sync_interval_sec              = optional(number, 300)
    sync_max_stale_percent         = optional(number)
    trusted_proxies                = optional(number, 1)
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
