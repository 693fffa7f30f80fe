"""`crosslmm doctor`: what is here, what works, what would fail."""

import typer

from crosslmm_cli import options
from crosslmm_cli.output import Output

_MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "failure": "FAIL"}


def doctor(as_json: options.JsonOption = False) -> None:
    """Check this machine: packages, readers, device, memory, disk, quantization, default model.

    Each thing is tried, not looked up. The exit code is 1 when no question could be answered.
    """
    from crosslmm.doctor import diagnose

    output = Output(as_json=as_json)
    checks = []
    for check in diagnose():
        checks.append(check)
        if not as_json:
            output.text(f"{_MARKS[check.status]:<5}{check.name:<18}{check.detail}")
            if check.remedy:
                output.text(f"{'':<23}{check.remedy}")
    able = all(check.status != "failure" for check in checks)
    if as_json:
        output.record({"able": able, "checks": [vars(check) for check in checks]})
    if not able:
        raise typer.Exit(1)
