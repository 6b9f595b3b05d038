variable "name" {
  description = "Name of the new deployment; null for the old one with `-rs`. Both are there for a while."
  type        = string
  default     = null
}

variable "image_tag" {
  description = "Tag of the broker's image in image_repository."
  type        = string
}

variable "image_repository" {
  description = "Name of the ECR repository with the broker's image; terraform/bootstrap makes it."
  type        = string
  default     = "sandbox-broker"
}

variable "admin_cidr_blocks" {
  description = "IPv4 ranges that may reach the admin API, the console and the metrics."
  type        = set(string)
}

variable "allowed_cidr_blocks" {
  description = "IPv4 ranges that may reach the load balancer."
  type        = set(string)
  default     = null
}

variable "domain_name" {
  description = "Domain name of the broker. Its record is changed by this apply if zone_id is given, so leave zone_id out until the new broker serves, or use a name of its own first."
  type        = string
  default     = null
}

variable "zone_id" {
  description = "Route 53 zone of domain_name."
  type        = string
  default     = null
}

variable "allow_plain_http" {
  description = "Whether the load balancer may serve plain HTTP, for a trial of the move."
  type        = bool
  default     = false
}

variable "egress" {
  description = "How tasks reach the CSP: public_ip or nat_gateway."
  type        = string
  default     = null
}

variable "old_address_count" {
  description = "Number of elastic addresses that were taken over; ./take-state writes it."
  type        = number
  default     = 0
}

variable "use_old_addresses" {
  description = "Whether the new NAT gateways use the old addresses: true once the old NAT gateways are removed."
  type        = bool
  default     = false
}

variable "permissions_boundary_arn" {
  description = "ARN of the policy that bounds the roles made here."
  type        = string
  default     = null
}

variable "alarm_emails" {
  description = "E-mail addresses that receive every alarm."
  type        = set(string)
  default     = []
}

variable "settings" {
  description = "Settings of the broker by the names of its environment variables in lower case. lab_duration_hours is 48, as it was, unless it is set."
  type        = any
  default     = {}
}
