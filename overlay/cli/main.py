"""Command-line entry point: `overlay VERB ...`, one verb for each job.

The parser is imported only where a verb is given, and Ray and torch only when its arguments are valid, so help and
error messages are printed at once. Exit status: 0 done, 2 the request was wrong (nothing written), 1 the work failed,
3 done but for inputs that could not be read, 130 and 143 interrupted by SIGINT and SIGTERM.
"""

import importlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, NoReturn

from overlay import __version__
from overlay.cli.verbs import USAGE, VERBS, Config
from overlay.config import JOB_ACTIONS, Compare, Predict, Prepare, Submit, Train
from overlay.config.options import named_places, nearest
from overlay.errors import Interrupted, RequestError, WorkError, interruption_status

if TYPE_CHECKING:
    from overlay.cli.signals import SignalWatch

_EXAMPLES = """\
examples:
  overlay demo
  overlay prepare images/ --out dataset
  overlay train dataset --out run --train.epochs 10
  overlay evaluate run dataset --out evaluation
  overlay compare dataset run other-run --out comparison
  overlay predict run/Resnet_fineTuning.pth more-images/ --out predictions
  overlay export run --format onnx
  overlay submit --address http://head:8265 -- train /shared/dataset --out /shared/run

overlay VERB --help lists a verb's options; overlay VERB ... --print_config prints them with their values, as YAML for
--config. Exit status: 0 done, 2 the request was wrong, 1 the work failed, 3 done but for inputs that could not be read,
130 and 143 interrupted: the same command goes on."""


def run_command() -> NoReturn:
    """Run the command of this process, and exit with its status."""
    from overlay.cli.signals import run_to_exit

    run_to_exit(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words[0] if words else ""
    if verb in ("-h", "--help"):
        print(_help())
        return 0
    if verb == "--version":
        print(f"overlay {__version__}")
        return 0
    if verb not in VERBS:
        wrong = f"there is no verb {verb!r}{nearest(verb, VERBS)}" if verb else "no verb given"
        return _say("overlay", f"{wrong}; overlay --help lists the verbs", status=2)
    from overlay.cli.parser import parse_arguments
    from overlay.cli.signals import GRACE_SECONDS, SignalWatch

    with SignalWatch(f"overlay {verb}") as watch, ExitStack() as logged:
        try:
            config = parse_arguments(verb, words[1:])
            logged.enter_context(_surroundings(verb, config))  # until the last line is printed, below
            return _run(verb, config)
        except KeyboardInterrupt as interrupt:
            watch.give_time(GRACE_SECONDS)  # to close all, whatever time the work asked for
            return _say_interrupted(verb, _named_by_signal(interrupt, watch))
        except (SystemExit, Exception) as error:
            if (number := watch.first_signal()) is not None:  # what broke then, or was told to exit, is no fault
                watch.give_time(GRACE_SECONDS)
                return _say_interrupted(verb, Interrupted(number, watch.give_time))
            if isinstance(error, SystemExit):  # --help and --print_config
                return int(error.code or 0)
            return _explain(verb, error)


def _surroundings(verb: str, config: Config) -> AbstractContextManager[None]:
    """Complete the process's environment, and return the context of the command's log."""
    from overlay.cli.environment import complete_environment
    from overlay.cli.raw_lines import filter_raw_lines

    complete_environment()
    filter_raw_lines()
    if isinstance(config, Submit):
        return nullcontext()
    from pipelines.runtime.command_log import command_log

    return command_log(verb, config.log_format)


def _run(verb: str, config: Config) -> int:
    # Before any module that imports ray: it sets what Ray reads while it is imported.
    from cluster import session

    if isinstance(config, Submit):
        return _submit(config)
    # The others find out later whether they need Ray.
    if isinstance(config, Train):
        session.connect_while_importing("pipelines.train")
    elif isinstance(config, Predict) and config.actors is not None:
        session.connect_while_importing("pipelines.inference.ray_backend")
    job = "check" if isinstance(config, Prepare) and config.check else verb
    outcome = importlib.import_module(f"pipelines.{job}").run(config)
    return 3 if getattr(outcome, "unreadable", 0) else 0  # those of prepare and predict have it


def _submit(config: Submit) -> int:
    """Send a job, or act on one that was sent."""
    from cluster import job_client, submit
    from overlay.cli.parser import to_words

    for action in JOB_ACTIONS:
        if (name := getattr(config, action)) is not None:
            return job_client.act_on_job(config.address, action, name)
    job = _job(config.job)
    reserved = {
        "entrypoint_num_cpus": config.driver.cpus,
        "entrypoint_num_gpus": config.driver.gpus,
        "entrypoint_memory": int(config.driver.memory * 2**30),
    }
    resources = {name: number for name, number in reserved.items() if number}
    return submit.submit(
        config.address, submit.Submission(to_words(job), config.name, config.detach, resources, _variables(job))
    )


def _variables(job: Config) -> dict[str, str]:
    """Return what the job can't know on the cluster: that this computer has a key of Weights & Biases, not the key."""
    if not isinstance(job, Train | Compare | Predict) or job.tracking.mode != "auto":
        return {}
    from overlay import tracking

    return {tracking.KEY_ELSEWHERE: "1"} if tracking.has_key() else {}


def _job(words: Sequence[str]) -> Config:
    """Parse and validate the request of a job as if it ran here; a --config file stays here.

    Raises:
        RequestError: the request is wrong, or names a relative path, which would mean nothing on the cluster.
    """
    from pathlib import PurePosixPath

    from overlay.cli.parser import parse_arguments

    verb = words[0]
    if verb not in VERBS or verb == "submit":
        raise RequestError(f"{verb!r} is no verb that can be a job{nearest(verb, VERBS)}")
    config = parse_arguments(verb, words[1:])
    for name, path in named_places(config):
        if "://" not in path and not PurePosixPath(path).is_absolute():
            raise RequestError(
                f"{name} is {path!r}, a relative path, but the job runs in another folder, on the cluster; give an "
                "absolute path that the cluster's nodes share, or an address in a bucket"
            )
    return config


def _explain(verb: str, error: Exception) -> int:
    """Print why the command failed; with the traceback only where neither the request nor the data is at fault."""
    cause = getattr(error, "cause", None)  # an error from a Ray task carries the original here
    known = cause if isinstance(cause, RequestError | WorkError) else error
    reason = " ".join(str(known).split())
    if isinstance(known, RequestError):
        return _say(f"overlay {verb}", reason, status=2)
    if isinstance(known, WorkError):
        return _say(f"overlay {verb}", reason, status=1)
    import traceback

    traceback.print_exception(error)
    return _say(
        f"overlay {verb}", f"failed with {type(error).__name__}; please report it with the lines above", status=1
    )


def _named_by_signal(interrupt: KeyboardInterrupt, watch: "SignalWatch") -> KeyboardInterrupt:
    """Return an interruption with its signal, also where Ray's C++ part has raised one of its own."""
    if isinstance(interrupt, Interrupted) or (number := watch.first_signal()) is None:
        return interrupt
    named = Interrupted(number, watch.give_time)
    for note in getattr(interrupt, "__notes__", []):
        named.add_note(note)
    return named


def _say_interrupted(verb: str, interrupt: KeyboardInterrupt) -> int:
    saved = [*getattr(interrupt, "__notes__", []), "what was saved stays"][0]
    what = str(interrupt) or "interrupted"
    return _say(f"overlay {verb}", f"{what}; {saved}; the same command goes on", interruption_status(interrupt))


def _say(who: str, what: str, status: int) -> int:
    print(f"{who}: {what}", file=sys.stderr)
    return status


def _help() -> str:
    lines = ["usage: overlay VERB ... [--config FILE.yaml] [--section.key VALUE ...]", "", "verbs:"]
    for verb, config in VERBS.items():
        purpose = (config.__doc__ or "").partition("\n")[0]
        lines += [f"  {verb} {USAGE[verb]}", f"      {purpose}"]
    return "\n".join([*lines, "", _EXAMPLES])
