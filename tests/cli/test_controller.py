"""`erecap train controller` and `erecap controller`."""

from __future__ import annotations

from pathlib import Path

from tests.training.controller_tables import write_table


def test_train_show_and_test(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_table(tmp_path / "table", 4, 2, 1)
    options = ("--table", "table", "--method", "linucb", "--steps", 60, "--passes", 2, "--slo-ms", "90,125")
    code, out, err = erecap("train", "controller", *options)
    assert code == 0, err
    assert "best fixed action" in out and "runs/controller/001/report.md" in out
    code, out, _ = erecap("controller", "show", "runs/controller/001")
    assert code == 0 and out.startswith("linucb for tiny (sha256:000000000000), seed 0\nSLO: 90, 125 ms\n")
    assert "  dense: no lever\n  small: kv_tokens 64\n" in out and "2 held-out prompts" in out
    code, out, _ = erecap("controller", "test", "runs/controller/001", "table", "--out", "judged", "--passes", 2)
    assert code == 0 and (tmp_path / "judged" / "report.md").exists() and "judged/report.md" in out


def test_mistakes_are_one_line(erecap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments, said in (
        (("train", "controller"), "got neither prompts nor a table"),
        (("train", "controller", "nowhere.csv"), "nowhere.csv: no such file or folder"),
        (("train", "controller", "--table", "nowhere"), "cannot be read"),
        (("train", "controller", "--table", "x", "--slo-ms", "a"), "--slo-ms: got 'a'"),
        (("train", "controller", "--table", "x", "--method", "luck"), "method: got 'luck'"),
        (
            ("train", "controller", "--table", "x", "--limit", "4", "--model", "y"),
            "--table goes without --model, --lim",
        ),
        (("train", "controller", ".", "--held-out", "1.5"), "held-out: got 1.5; allowed: above 0 and below 1"),
        (("train", "controller", "--table", "x", "--late", "-1"), "reward: late must be finite and 0 or more"),
        (("train", "controller", ".", "--loads", "idle,storm"), "loads: got ('idle', 'storm')"),
        (("controller", "show", "nowhere"), "controller nowhere: no such folder"),
    ):
        code, _, err = erecap(*arguments)
        assert code != 0 and said in err and err.count("\n") == 1, (arguments, err)


def test_the_state_of_this_machine(erecap) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = erecap("controller", "state", "--seconds", "0.1")
    assert code == 0 and "memory free: " in out and "GPU busy: absent" in out
