#!/usr/bin/env python3
"""The AWS emulator moto, with one addition that this configuration needs: it keeps the tags of scalable targets, which the
provider reads back. Takes the arguments of moto_server."""

import json

from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse as Responses
from moto.server import main

tags_by_arn: dict[str, dict[str, str]] = {}
register_without_tags = Responses.register_scalable_target


def register_scalable_target(self: Responses) -> str:
    answer = register_without_tags(self)
    tags_by_arn.setdefault(json.loads(answer)["ScalableTargetARN"], {}).update(self._get_param("Tags") or {})
    return answer


def list_tags_for_resource(self: Responses) -> str:
    return json.dumps({"Tags": tags_by_arn.get(self._get_param("ResourceARN"), {})})


Responses.register_scalable_target = register_scalable_target
Responses.list_tags_for_resource = list_tags_for_resource

if __name__ == "__main__":
    main()
