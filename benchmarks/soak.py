"""An hour of all kinds of faults: workers that are killed, suspended and restarted on one grid, clocks that step, a disk that
fills, leases that are damaged, and an MLflow server that becomes unavailable.

Round after round, the same tiny grid with every kind of task starts in an empty folder. Each must end with exactly the results
of an undisturbed grid, without partial files, and with each run complete in MLflow. ``BENCH_SECONDS`` sets another duration.
Nothing depends on the speed of the machine.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import SECONDS, Result
from benchmarks.soak_faults import Clock, Disk, Server, spoil_lease, stepping_clock

PARTS = ("grid",)
WORKERS, LEASE_SECONDS, DISK_BYTES = 8, 3.0, 64 * 2**20

#: Maximum time to the end of a round after the last disturbance, seconds.
PATIENCE = 900.0

#: A grid with every kind of task: six cells of two rounds that inherit from two parents.
CELLS = [
    "-m", "arch.depth=1,2", "seeds=3", "arch.width=16", "arch.ffn_width=24", "tokenizer=bpe", "tokenizer.vocab_size=300",
    "tokenizer.train_bytes=20000", "train.context_length=32", "train.batch_tokens=128", "train.tokens=6400",
    "train.device=cpu", "train.threads=1", "train.compile=false", "train.log_every=1", "train.checkpoint_minutes=0.002",
    "init=inherit", "init.criterion=taylor", "init.calibration_tokens=256", "init.parent_depth=3", "init.parent_width=32",
    "init.parent_ffn_width=48", "init.keep_first=1", "init.keep_last=0", "rounds=two", "rounds.parts=2", "rounds.rule=loss",
    "evaluate.max_bytes=2000", "evaluate.cloze_questions=4", "evaluate.layer_skip=1", f"grid.lease_seconds={LEASE_SECONDS}",
    "data=files", "data.validation_share=0.1", "data.test_share=0.1", "tracking.flush_seconds=1", "progress=off",
]  # fmt: skip


def run(part: str, windows: int) -> Result:
    """Soak for an hour, or for ``BENCH_SECONDS``; the number of windows is ignored."""
    del part, windows
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    library = stepping_clock(folder)
    spec = {
        "folder": str(folder),
        "seconds": min(3600.0, SECONDS),
        "steps": library is not None,
        "seed": random.randrange(2**32),
    }
    quiet = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    environment = os.environ | quiet | ({"LD_PRELOAD": str(library)} if library is not None else {})
    command = [sys.executable, "-m", "benchmarks.soak", json.dumps(spec)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the soak failed (seed {spec['seed']}); everything is in {folder}")
    shutil.rmtree(folder)
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


@dataclass
class Worker:
    """One process of a worker.

    Attributes:
        name: Name of its log.
        place: Number of the worker.
        killed: Signals sent to it.
        resumes: Time at which it continues, if it is suspended.
    """

    name: str
    place: int
    killed: set[int]
    resumes: float | None = None


class Failed(Exception):
    """The soak found a defect."""


class Soak:
    """Workers on one grid, and their disturbances.

    Args:
        folder: Folder for all files.
        steps: Whether clocks can be stepped.
        draw: Draws disturbances and their times.
    """

    def __init__(self, folder: Path, steps: bool, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.disk, self.server = Disk(folder / "disk", DISK_BYTES), Server(folder / "server")
        self.clocks = [Clock(folder / f"clock-{place}") for place in range(WORKERS)]
        self.counts: Counter[str] = Counter()
        self.alive: dict[int, Worker] = {}
        self.empty: dict[int, float] = {}  # start of the next process, by place
        self.lives = 0
        self.until = {"disk": 0.0, "server": 0.0}
        self.next = 0.0
        self.arguments: list[str] = []
        self.finished = False
        self.events: dict[Callable[[], object], float] = {
            self.kill: 8, self.terminate: 2, self.suspend: 2, self.spoil: 2, **({self.step: 3} if steps else {}),
            **({self.fill: 1.5} if self.disk.real else {}), self.lose_server: 0.4,
        }  # fmt: skip

    # Disturbances.

    def victim(self) -> int | None:
        """Return a worker that is not suspended."""
        running = [process for process, worker in self.alive.items() if worker.resumes is None]
        return self.draw.choice(running) if running else None

    def send(self, sign: signal.Signals, name: str) -> int | None:
        """Send a signal to a random worker."""
        process = self.victim()
        if process is not None:
            os.kill(process, sign)
            self.alive[process].killed.add(sign)
            self.counts[name] += 1
        return process

    def kill(self) -> None:
        """Kill a worker."""
        self.send(signal.SIGKILL, "workers killed")

    def terminate(self) -> None:
        """Ask a worker to end."""
        self.send(signal.SIGTERM, "workers terminated")

    def suspend(self) -> None:
        """Suspend a worker, often for longer than its lease time."""
        process = self.send(signal.SIGSTOP, "workers suspended")
        if process is not None:
            self.alive[process].resumes = time.monotonic() + self.draw.uniform(1, 5 * LEASE_SECONDS)

    def spoil(self) -> None:
        """Damage a lease."""
        self.counts["leases spoiled"] += spoil_lease(self.runs, self.draw)

    def step(self) -> None:
        """Step the clock of a worker."""
        self.draw.choice(self.clocks).step(self.draw)
        self.counts["clock steps"] += 1

    def fill(self) -> None:
        """Fill the disk for some seconds."""
        if not self.disk.full:
            self.disk.fill(self.draw)
            self.until["disk"] = time.monotonic() + self.draw.uniform(1, 8)
            self.counts["disks filled"] += 1

    def lose_server(self) -> None:
        """Lose the tracking server for a while."""
        if not self.server.away:
            self.server.go_away(self.draw)
            self.until["server"] = time.monotonic() + self.draw.uniform(5, 60)
            self.counts["servers lost"] += 1

    # The workers.

    def begin(self, place: int) -> None:
        """Start the next process of a worker. Half of them act like other machines, in a folder without locks."""
        from tests.execute.killing import start

        self.lives += 1
        name = f"worker-{place}-{self.lives}"
        limit = self.draw.choice((4_000, 30_000, 60_000)) if self.draw.random() < 0.1 else None
        self.counts["workers with a limit on the size of files"] += limit is not None
        clock = self.clocks[place].path
        process = start(name, self.arguments, apart=place >= WORKERS // 2, prepare=partial(_prepare, clock, limit))
        self.alive[process] = Worker(name, place, set())
        self.counts["workers started"] += 1

    def reap(self) -> None:
        """Handle workers that have ended."""
        for process, worker in list(self.alive.items()):
            found, status = os.waitpid(process, os.WNOHANG)
            if not found:
                continue
            del self.alive[process]
            code = os.waitstatus_to_exitcode(status)
            log = Path(f"{worker.name}.log")
            text = log.read_text() if log.exists() else ""  # it may be killed before it opens its log
            expected = {-sign for sign in worker.killed} | {128 + sign for sign in worker.killed}
            if (code not in {0, *expected} and not (code == 2 and "no space for" in text)) or "Traceback" in text:
                raise Failed(f"{log} ended with exit code {code}:\n{text[-4000:]}")
            log.unlink(missing_ok=True)
            self.counts[{0: "workers that ended with 0", 2: "workers without room"}.get(code, "workers that ended early")] += 1
            self.finished |= code == 0
            self.empty[worker.place] = time.monotonic() + self.draw.uniform(0, 4)

    def spent(self) -> float:
        """Return the processor time of all workers, seconds: on a slow machine, there are fewer disturbances."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = [psutil.Process(process).cpu_times() for process in self.alive]
        return ended.ru_utime + ended.ru_stime + sum(time.user + time.system for time in times)

    def tick(self, calm: bool) -> None:
        """Handle everything once; ``calm`` ends the disturbances."""
        now = time.monotonic()
        self.reap()
        for process, worker in self.alive.items():
            if worker.resumes is not None and (calm or now > worker.resumes):
                os.kill(process, signal.SIGCONT)
                worker.resumes = None
        if self.disk.full and (calm or now > self.until["disk"]):
            self.disk.empty()
        if self.server.away and (calm or now > self.until["server"]):
            self.server.start()
        if not self.finished:
            for place in [place for place, when in self.empty.items() if calm or now > when]:
                del self.empty[place]
                self.begin(place)
            if not calm and (spent := self.spent()) > self.next:
                self.draw.choices(list(self.events), list(self.events.values()))[0]()
                self.next = spent + self.draw.uniform(0.5, 3)
        time.sleep(0.1)

    # A round.

    def go(self, number: int, disturbed_until: float, expected: dict[str, Any]) -> None:
        """Run the grid from an empty folder to its end, with disturbances.

        Raises:
            Failed: The round found a defect.
        """
        from tests.execute.outcomes import litter, outcome

        self.arguments = self.on(self.disk.folder / f"round-{number}", number)
        self.finished, self.empty = False, dict.fromkeys(range(WORKERS), 0.0)
        began = time.monotonic()
        while not self.finished or self.alive:
            now = time.monotonic()
            self.tick(calm=self.finished or now > disturbed_until)
            if now > max(began, disturbed_until) + PATIENCE and now > began + 4 * PATIENCE:
                raise Failed(f"round {number} does not end; at work are {[worker.name for worker in self.alive.values()]}")
        for clock in self.clocks:
            clock.set(0)
        self.command("last", self.arguments)  # cleans up, and sends what the server has missed
        while not self.server.answers():
            time.sleep(0.2)
        self.command("sync", ["mode=sync", *(word for word in self.arguments if word.startswith(("runs_dir=", "tracking.")))])
        runs = self.runs
        found = outcome(runs)
        if found != expected:
            names = [
                (run, name) for run in expected for name in expected[run] if found.get(run, {}).get(name) != expected[run][name]
            ]
            raise Failed(
                f"round {number}: other results than those of an undisturbed grid: {names}, {found.keys() ^ expected.keys()}"
            )
        if left := litter(runs):
            raise Failed(f"round {number} left {left}")
        _apart(partial(_in_mlflow, f"http://127.0.0.1:{self.server.port}", f"round-{number}", runs))
        self.counts["runs compared"] += len(found)
        self.counts["rounds"] += 1
        shutil.rmtree(runs)

    @property
    def runs(self) -> Path:
        """Folder of the runs of this round."""
        (word,) = [word for word in self.arguments if word.startswith("runs_dir=")]
        return Path(word.partition("=")[2])

    def on(self, runs: Path, number: int) -> list[str]:
        """Arguments of the command."""
        tracking = [
            "tracking=mlflow",
            f"tracking.uri=http://127.0.0.1:{self.server.port}",
            f"tracking.experiment=round-{number}",
        ]
        return [*CELLS, f"data.path={self.folder / 'text.jsonl'}", f"runs_dir={runs}", *tracking]

    def command(self, name: str, arguments: list[str]) -> None:
        """Run a command to its end, undisturbed."""
        from tests.execute.killing import start, wait

        code = wait(start(name, arguments))
        log = Path(f"{name}.log")
        text = log.read_text()
        if code or "Traceback" in text:
            raise Failed(f"{name} ended with exit code {code}:\n{text[-4000:]}")
        log.unlink()

    def end(self, whole: bool) -> None:
        """End all processes; unless there was no failure (``whole``), copy the files on the small disk."""
        for process in self.alive:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        self.server.kill()
        if self.disk.real and not whole:  # a failure is explained by its files, which would be lost with the disk
            self.disk.empty()
            shutil.copytree(self.disk.folder, self.folder / "kept", symlinks=True)
        self.disk.unmount()


def _prepare(clock: Path, limit: int | None) -> None:
    """Set the clock and the file size limit of a worker."""
    os.environ["STEPPED_CLOCK"] = str(clock)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def _apart(check: Callable[[], str]) -> None:
    """Run a check in a separate process, so that no connection is shared with workers."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        try:
            description = check()
        except BaseException as error:
            description = repr(error)
        os.write(write, description.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        description = stream.read()
    os.waitpid(process, 0)
    if description:
        raise Failed(description)


def _in_mlflow(uri: str, experiment: str, runs: Path) -> str:
    """Return mistakes in MLflow, which must have each run once, with each point of its curve once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    kept = client.search_runs([found.experiment_id]) if found is not None else []
    problems = [f"{run.info.run_name} is {run.info.status}" for run in kept if run.info.status != "FINISHED"]
    for path in runs.glob("*/metrics.json"):
        ids = [run.info.run_id for run in kept if run.data.tags.get("tinylm.key") == path.parent.name]
        rows = [json.loads(line) for line in (path.parent / "curve.jsonl").read_text().splitlines()]
        points = [point.value for run in ids for point in client.get_metric_history(run, "curve/loss")]
        if len(ids) != 1 or sorted(points) != sorted(row["loss"] for row in rows):
            problems.append(f"{path.parent.name} is there {len(ids)} times, with {len(points)} of {len(rows)} points")
    return "; ".join(f"{experiment} in MLflow: {problem}" for problem in problems)


def _write_text(path: Path, draw: random.Random) -> None:
    """Write about 200 kB of words."""
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 8))) for _ in range(500)]
    with path.open("w") as stream:
        for _ in range(300):
            stream.write(json.dumps({"text": " ".join(draw.choices(words, k=120))}) + "\n")


def main(spec: dict[str, Any]) -> Result:
    """Soak and return the figures."""
    from tests.execute.outcomes import outcome

    draw = random.Random(spec["seed"])
    folder = Path(spec["folder"])
    for name in ("tests.preloaded", "mlflow", "mlflow.tracking", "tinylm_ablate.tracking.sync"):
        importlib.import_module(name)
    soak = Soak(folder, spec["steps"], draw)
    _write_text(folder / "text.jsonl", draw)
    os.chdir(folder)
    try:
        began = time.monotonic()
        soak.command("undisturbed", [*soak.on(folder / "whole", 0), "tracking=none"])
        alone = time.monotonic() - began
        expected = outcome(folder / "whole")
        print(f"  {len(expected)} runs undisturbed in {alone:.0f} s", file=sys.stderr, flush=True)
        began = time.monotonic()
        soak.server.start()
        while not soak.server.answers():
            time.sleep(0.2)
        while (passed := time.monotonic() - began) < spec["seconds"]:
            soak.go(soak.counts["rounds"] + 1, began + spec["seconds"], expected)
            counts = ", ".join(f"{count} {name}" for name, count in soak.counts.items())
            print(f"  {time.monotonic() - began:,.0f} s: {counts}", file=sys.stderr, flush=True)
    except BaseException:
        soak.end(whole=False)
        raise
    soak.end(whole=True)
    passed = time.monotonic() - began
    return {
        "seconds": passed, "seed": spec["seed"], "workers": WORKERS, "small_disk": soak.disk.real, "clocks_step": spec["steps"],
        "undisturbed_seconds": alone, "runs": len(expected), "counts": dict(sorted(soak.counts.items())),
    }  # fmt: skip


if __name__ == "__main__":
    try:
        print(json.dumps(main(json.loads(sys.argv[1]))))
    except Failed as failure:
        raise SystemExit(str(failure)) from None
