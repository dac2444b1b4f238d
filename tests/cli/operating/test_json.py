"""What `--json` prints of changes, and of the live view."""

from __future__ import annotations

import json

from .conftest import BECAUSE, Operate


def test_the_json_of_each_change_has_its_edits(operate: Operate) -> None:
    """Of top-up, override, unblock, remove and reset, as a preview and as made."""
    operate.charge("team=json", 4_000)
    limits: dict[str, int] = {}
    name = ""
    for command, amounts, used in [
        (("top-up", "budgets", "team=json", "500", "--window", "year"), (None, 500), (4_000, 4_000)),
        (("remove", "ID"), (500, None), (4_000, 4_000)),
        (("override", "budgets", "team=json", "7", "--window", "year"), (None, 7), (4_000, 4_000)),
        (("unblock", "budgets", "team=json", "--window", "year"), (7, None), (4_000, 4_000)),
        (("reset", "budgets", "team=json", "--window", "year"), (None, None), (4_000, 0)),
    ]:
        asked = [name if each == "ID" else each for each in command]
        asked += [*BECAUSE, "--json"]
        if command[0] == "reset":
            asked += ["--server", operate.service.debug]
        preview, made = operate(*asked, "--dry-run"), operate(*asked)
        assert (0, 0, "", "") == (preview.code, made.code, preview.err, made.err), command
        would, done = json.loads(preview.out), json.loads(made.out)
        for edit in (*would["edits"], *done["edits"]):
            assert ("budgets", "team=json", "year") == (edit["domain"], edit["descriptor"], edit["window"])
            assert amounts == tuple(edit[each] and edit[each]["amount"] for each in ("before", "after"))
        (budget,) = would["budgets"]
        assert used == tuple(budget[each]["windows"][0]["used"] for each in ("before", "after"))
        assert (1, 1, False) == (len(would["edits"]), len(done["edits"]), done["replayed"])
        assert would["confirmation"]
        name = (done["edits"][0]["after"] or {}).get("id", "")
        windows = json.loads(operate("show", "budgets", "team=json", "--json").out)["windows"]
        assert (used[1], 4_000) == (windows[0]["used"], windows[1]["used"])
        limits[command[0]] = windows[0]["effective_limit"]
    assert {"top-up": 5_500, "remove": 5_000, "override": 7, "unblock": 5_000, "reset": 5_000} == limits


def test_the_json_of_top_is_one_list(operate: Operate) -> None:
    """It does not need the terminal, and ends. The options of the view apply."""
    operate.charge("team=top-1", 4_900)
    operate.charge("team=top-2", 100)
    code, out, err = operate("top", "budgets", "--json", "--prefix", "top-", "--sort", "used")
    found = json.loads(out)
    assert (0, "", ["team=top-2", "team=top-1"]) == (
        code,
        err,
        [each["descriptor"] for each in found["budgets"]],
    )
    low = json.loads(operate("top", "budgets", "--json", "--prefix", "top-", "--state", "low").out)
    assert ["team=top-1"] == [each["descriptor"] for each in low["budgets"]]
