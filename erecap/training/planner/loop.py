"""The training loop: gradients accumulated over transcripts, stopped in time, resumed to the same result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from erecap.errors import RunError
from erecap.files import write_atomic
from erecap.rollout.run_folder.interrupt import Interrupts
from erecap.training.checkpointing import read_facts, restore, save_state
from erecap.training.planner.batches import batches
from erecap.training.planner.data import PlannerData, order
from erecap.training.planner.early import EarlyLayers
from erecap.training.planner.evaluations import Best
from erecap.training.planner.model import Trainee
from erecap.training.planner.scores import batch_loss, holes_of
from erecap.training.planner.settings import PlannerTraining
from erecap.training.planner.under_budget import Holes
from erecap.training.sequences import PlanSequence
from erecap.untrusted import parse_json

LOG = "log.jsonl"
PROJECT_AFTER_STEPS, PROJECT_AFTER_S = 5, 60.0
End = Literal["finished", "early", "time", "interrupted"]


@dataclass(frozen=True)
class Limits:
    """Limits of one call: when to stop and to save. A resumed training may have others."""

    hours: float | None = None  # of this call
    save_minutes: float = 10.0
    stop_after: int | None = None  # steps of this call


class Loop:
    """One training.

    Args:
        trainee: the model.
        data: its sequences.
        settings: checked ones.
        folder: where `log.jsonl` and the checkpoint go.
        identity: JSON values that a checkpoint must agree with to be resumed.
        say: takes lines for the person who waits.
        holes: reads some transcripts as under a budget; None: all whole.

    Raises:
        RunError: the folder's checkpoint is damaged, or of another training; names the first difference.
    """

    def __init__(
        self,
        trainee: Trainee,
        data: PlannerData,
        settings: PlannerTraining,
        folder: Path,
        identity: dict[str, Any],
        say: Callable[[str], None],
        holes: Holes | None = None,
    ) -> None:
        self.step = 0
        self.seconds = 0.0  # of all calls together
        self.end: End | None = None
        self.best = Best(trainee, data.held_out, holes, say)
        self._interrupts = Interrupts()
        self._trainee, self._data, self._settings = trainee, data, settings
        self._folder, self._identity, self._say, self._holes = folder, identity, say, holes
        self._early = (
            EarlyLayers(trainee, settings.layer_dropout, settings.early_loss, settings.early_turns)
            if settings.trains_early
            else None
        )
        self._an_epoch = math.ceil(len(data.train) / settings.accumulate)
        self.steps = settings.epochs * self._an_epoch
        marks = settings.epochs * settings.evaluations
        self._evaluate_at = {0} | {round(self.steps * (n + 1) / marks) for n in range(marks)}
        self._optimizer = torch.optim.AdamW(
            list(trainee.trainable.values()), settings.highest_lr, weight_decay=settings.weight_decay
        )
        self._resume()

    def run(self, limits: Limits) -> End:
        """Train to the end or to a limit; a checkpoint is there whichever it is.

        Raises:
            RunError: a loss or a gradient is not finite; names the transcript and the step.
        """
        if self.end is not None:
            return self.end
        self._began = self._saved = time.perf_counter()
        before, first, tokens = self.seconds, self.step, 0
        projected = False
        with Interrupts() as self._interrupts:
            try:
                while True:
                    if self._data.held_out and self.best.evaluated != self.step in self._evaluate_at:
                        self._evaluate()
                    if self.end is not None or self.step == self.steps:
                        break
                    if self._out_of_time(limits, self.step - first):
                        self.save()
                        return "time"
                    if time.perf_counter() - self._saved > 60 * limits.save_minutes:
                        self.save()
                    group = self._group()
                    self._learn(group)
                    self.seconds = before + time.perf_counter() - self._began
                    tokens += sum(sequence.tokens for sequence in group)
                    learning = self.seconds - before - self.best.seconds
                    if not projected and (self.step - first >= PROJECT_AFTER_STEPS or learning > PROJECT_AFTER_S):
                        projected = True
                        self._project(self.step - first, learning, tokens)
            except KeyboardInterrupt:
                self.save()
                return "interrupted"
            self.end = self.end or "finished"
            self.save()
        return self.end

    def choose(self) -> int:
        """Give the model the weights to ship; returns their step. See `Best.choose`."""
        return self.best.choose(self.step, ended=self.end is not None)

    def save(self) -> None:
        """Write the checkpoint."""
        facts = {
            "identity": self._identity,
            "step": self.step,
            "seconds": self.seconds,
            "end": self.end,
            **self.best.facts(),
        }
        with self._interrupts.held():
            save_state(self._folder, facts, self._trainee.trainable, self.best.weights, self._optimizer)
        self._saved = time.perf_counter()

    def _group(self) -> list[PlanSequence]:
        epoch, place = divmod(self.step, self._an_epoch)
        numbers = order(len(self._data.train), self._settings.seed, epoch)
        size = self._settings.accumulate
        return [self._data.train[number] for number in numbers[place * size : (place + 1) * size]]

    def _learn(self, group: list[PlanSequence]) -> None:
        """One step: the mean over all plan tokens of the group."""
        started = time.perf_counter()
        trainable = list(self._trainee.trainable.values())
        labels = sum(len(sequence.labels) for sequence in group)
        self._optimizer.zero_grad(set_to_none=True)
        # Random numbers (dropout) are a function of the step, so that a resume needs no state of generators.
        torch.manual_seed(self._settings.seed + 1_000_003 * self.step)
        self._trainee.model.train()
        total = 0.0
        for batch in batches(group, self._settings.batch_tokens):
            mays = [self._may(sequence) for sequence in batch]
            early = self._early
            loss = batch_loss(self._trainee, batch, mays) if early is None else early.loss(batch, mays, self.step)
            total += self._finite(float(loss.detach()), "the loss", batch)
            (loss / labels).backward()
            gradients = [tensor.grad for tensor in trainable if tensor.grad is not None]
            # A sum of norms is not finite if one value is not, and costs one look at the gradients.
            self._finite(float(torch.stack(torch._foreach_norm(gradients)).sum()), "the gradient", batch)
        norm = float(torch.nn.utils.clip_grad_norm_(trainable, self._settings.clip))
        rate = self._settings.learning_rate(self.step, self.steps)
        for options in self._optimizer.param_groups:
            options["lr"] = rate
        # Until here an interrupt loses nothing but the gradients of this step.
        with self._interrupts.held():
            self._optimizer.step()
            self.step += 1
            self._log(
                loss=total / labels,
                lr=rate,
                grad_norm=norm,
                tokens=sum(sequence.tokens for sequence in group),
                seconds=round(time.perf_counter() - started, 3),
            )

    def _may(self, sequence: PlanSequence) -> torch.Tensor | None:
        """The tokens that each token may attend to in this step."""
        if self._holes is None or not self._holes.drawn(self.step, sequence):
            return None
        return holes_of(self._trainee, sequence, self._holes)

    def _finite(self, value: float, what: str, batch: list[PlanSequence]) -> float:
        if not math.isfinite(value):
            names = ", ".join(sequence.name for sequence in batch)
            raise RunError(
                f"{what} is {value} at step {self.step + 1} of {self.steps}, transcript {names}: stopped; "
                "a lower --lr or --amp none may help, and the last checkpoint is kept"
            )
        return value

    def _evaluate(self) -> None:
        self._log(**self.best.evaluate(self.step, self.steps))
        if self.best.worse >= self._settings.patience and self.step < self.steps:
            self.end = "early"

    def _project(self, steps: int, seconds: float, tokens: int) -> None:
        total = self._settings.epochs * sum(sequence.tokens for sequence in self._data.train)
        left = total * (1 - (self.step - steps) / self.steps) - tokens
        self._say(
            f"{seconds / steps:.2f} s a step, {1e3 * seconds / tokens:.2f} ms a token; {self.steps} steps, "
            f"{total:,} tokens; about {max(0.0, left) * seconds / tokens / 3600:.2f} h to go without evaluations"
        )

    def _out_of_time(self, limits: Limits, steps: int) -> bool:
        if limits.stop_after is not None and steps >= limits.stop_after:
            return True
        return limits.hours is not None and time.perf_counter() - self._began > 3600 * limits.hours

    def _log(self, **values: Any) -> None:
        row = json.dumps({"step": self.step, **values}, allow_nan=False)
        with (self._folder / LOG).open("a", encoding="utf-8") as file:
            file.write(row + "\n")

    def _resume(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        facts = read_facts(self._folder)
        if facts is None:
            write_atomic(self._folder / LOG, "")
            return
        for key, value in self._identity.items():
            before = facts["identity"].get(key)
            if before != value:
                raise RunError(
                    f"{self._folder}: holds a training with {key} {before!r}, now it is {value!r}; "
                    "--fresh starts anew, --out FOLDER keeps both"
                )
        self.best.restore(facts, restore(self._folder, self._trainee.trainable, self._optimizer))
        self.step, self.seconds, self.end = facts["step"], facts["seconds"], facts["end"]
        # Rows after the checkpoint will be logged again.
        rows = [
            row
            for row in read_log(self._folder)
            if row["step"] <= (self.best.evaluated if "held_out" in row else self.step)
        ]
        write_atomic(self._folder / LOG, "".join(json.dumps(row) + "\n" for row in rows))
        self._say(f"going on from step {self.step} of {self.steps}")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of `log.jsonl`; a last one that was cut short is left out."""
    path = folder / LOG
    *whole, _ = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    return [parse_json(line) for line in whole]
