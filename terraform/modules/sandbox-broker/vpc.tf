# A network of its own, unless an existing one is given: two public subnets for the load balancer, in two zones. With
# egress "public_ip" the tasks run there too, with public addresses and a security group that admits only the load
# balancer. With "nat_gateway" they run in two private subnets and call the CSP from fixed addresses.

data "aws_availability_zones" "available" {
  # checkov:skip=CKV_AWS_394:availability_zones pins the zones. The default is the first two; a new zone comes after them or shows in the plan.
  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

locals {
  zones = var.availability_zones == null ? slice(data.aws_availability_zones.available.names, 0, 2) : var.availability_zones

  makes_vpc = var.vpc == null
  makes_nat = local.makes_vpc && var.egress == "nat_gateway"
  # NAT gateways with addresses that exist, or with new ones.
  nat_count       = local.makes_nat ? var.nat_gateway_count : 0
  nat_allocations = length(var.nat_allocation_ids) > 0 ? var.nat_allocation_ids : aws_eip.nat[*].id

  vpc_id             = local.makes_vpc ? aws_vpc.main[0].id : var.vpc.id
  vpc_cidr           = local.makes_vpc ? var.vpc_cidr : data.aws_vpc.given[0].cidr_block
  public_subnet_ids  = local.makes_vpc ? aws_subnet.public[*].id : var.vpc.public_subnet_ids
  private_subnet_ids = local.makes_vpc ? aws_subnet.private[*].id : var.vpc.private_subnet_ids
  task_subnet_ids    = var.egress == "public_ip" ? local.public_subnet_ids : local.private_subnet_ids
}

data "aws_vpc" "given" {
  count = local.makes_vpc ? 0 : 1

  id = var.vpc.id
}

resource "aws_vpc" "main" {
  count = local.makes_vpc ? 1 : 0

  # checkov:skip=CKV2_AWS_11:Flow logs are billed by the gigabyte, and the load balancer's access logs name the callers. Add flow logs where a policy requires them.
  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = var.name }
}

# Without rules, so that no traffic depends on the default group.
resource "aws_default_security_group" "closed" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.main[0].id

  tags = { Name = "${var.name}-default-closed" }
}

resource "aws_internet_gateway" "main" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.main[0].id

  tags = { Name = var.name }
}

resource "aws_subnet" "public" {
  count = local.makes_vpc ? 2 : 0

  vpc_id            = aws_vpc.main[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index)

  tags = { Name = "${var.name}-public-${local.zones[count.index]}" }
}

resource "aws_subnet" "private" {
  count = local.makes_nat ? 2 : 0

  vpc_id            = aws_vpc.main[0].id
  availability_zone = local.zones[count.index]
  cidr_block        = cidrsubnet(var.vpc_cidr, 4, count.index + 8)

  tags = { Name = "${var.name}-private-${local.zones[count.index]}" }
}

resource "aws_route_table" "public" {
  count = local.makes_vpc ? 1 : 0

  vpc_id = aws_vpc.main[0].id

  tags = { Name = "${var.name}-public" }
}

resource "aws_route" "internet" {
  count = local.makes_vpc ? 1 : 0

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.main[0].id
}

resource "aws_route_table_association" "public" {
  count = local.makes_vpc ? 2 : 0

  route_table_id = aws_route_table.public[0].id
  subnet_id      = aws_subnet.public[count.index].id
}

# The route to the CSP. The CSP may have to allow these addresses.
resource "aws_eip" "nat" {
  count = length(var.nat_allocation_ids) > 0 ? 0 : local.nat_count

  domain = "vpc"

  tags = { Name = "${var.name}-nat-${count.index}" }
}

resource "aws_nat_gateway" "main" {
  count = local.nat_count

  allocation_id = local.nat_allocations[count.index]
  subnet_id     = aws_subnet.public[count.index].id

  tags = { Name = "${var.name}-${local.zones[count.index]}" }

  depends_on = [aws_internet_gateway.main]
}

resource "aws_route_table" "private" {
  count = local.makes_nat ? 2 : 0

  vpc_id = aws_vpc.main[0].id

  tags = { Name = "${var.name}-private-${local.zones[count.index]}" }
}

# With one gateway, both zones share it.
resource "aws_route" "nat" {
  count = local.makes_nat ? 2 : 0

  route_table_id         = aws_route_table.private[count.index].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.main[min(count.index, var.nat_gateway_count - 1)].id
}

resource "aws_route_table_association" "private" {
  count = local.makes_nat ? 2 : 0

  route_table_id = aws_route_table.private[count.index].id
  subnet_id      = aws_subnet.private[count.index].id
}
