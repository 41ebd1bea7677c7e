#!/bin/sh
# grafana-foundation-sdk 0.0.21: the v2beta1 schema cannot be read and written again.
#
# Guess before it was run: Dashboard.from_json(what to_json gave) is the same dashboard, as it is for the first schema.
# Seen: VizConfigKind.from_json puts "group" and "version" into sets of one (`{"stat"}`), so that JSONEncoder refuses
# with "Object of type set is not JSON serializable". The builders' own output is sound; only what was read is not.
# Therefore a dashboard that is taken over from JSON needs an encoder that takes the only element out of such a set.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grafana-foundation-sdk==0.0.21
"$folder/venv/bin/python" - <<'PYTHON'
import json

from grafana_foundation_sdk.builders import dashboardv2beta1 as v2
from grafana_foundation_sdk.builders import stat
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboardv2beta1 import VizConfigKind

panel = v2.Panel().title("A number").visualization(stat.Visualization().unit("short"))
written = json.loads(json.dumps(panel.build(), cls=JSONEncoder))
visual = written["spec"]["vizConfig"]
print("written by the builder:", json.dumps({key: visual[key] for key in ("kind", "group", "version")}))
assert visual["group"] == "stat"

read = VizConfigKind.from_json(visual)
print("read from that:", {"group": read.group, "version": read.version})
assert read.group == {"stat"}, "it is read as it was written now: this finding is over"
try:
    json.dumps(read, cls=JSONEncoder)
except TypeError as error:
    print("written again:", error)
    assert "set is not JSON serializable" in str(error)
else:
    raise SystemExit("it can be written again now: this finding is over")
PYTHON
