"""`crosslmm doctor`: what is installed, what works, what would fail."""

import typer

from crosslmm_cli import options
from crosslmm_cli.commands import load
from crosslmm_cli.errors import FAILED
from crosslmm_cli.flags import flags_of, with_flags
from crosslmm_cli.output import Output

_MARKS = {"ok": "ok", "note": "note", "warning": "WARN", "failure": "FAIL"}
_WIDTH = 22  # of marks and names, fixed because each check is printed as soon as it is done


def doctor(as_json: options.JsonOption = False) -> None:
    """Check this machine: packages, readers, device, memory, disk, quantization, default model.

    Every check runs the real thing. The exit code is 1 if no question could be answered.
    """
    from crosslmm.doctor import diagnose

    output = Output(as_json=as_json)
    flags = flags_of(load("ask", rich=False))  # remedies are about the commands that run a model
    checks = []
    for check in diagnose():
        checks.append(check)
        if not as_json:
            detail = with_flags(check.detail, flags)
            rows = [(f"{_MARKS[check.status]:<5}{check.name}", detail)]
            if check.remedy:
                rows.append(("", with_flags(check.remedy, flags)))
            output.table(rows, header=False, first_width=_WIDTH)
    able = all(check.status != "failure" for check in checks)
    if as_json:
        output.record({"able": able, "checks": [vars(check) for check in checks]})
    if not able:
        raise typer.Exit(FAILED)
