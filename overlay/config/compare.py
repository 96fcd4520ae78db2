"""Options of `overlay compare`."""

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

from overlay.config.common import Place, check
from overlay.config.train import TrainingOptions

ComparisonMetric = Literal["accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss", "sensitivity"]
COMPARISON_METRICS: tuple[ComparisonMetric, ...] = get_args(ComparisonMetric)


@dataclass(frozen=True)
class Compare(TrainingOptions):
    """Compare finished models on a test split, or candidates trained in every fold of a dataset; resumes if stopped."""

    models: list[Place] = field(default_factory=list)
    """finished models: runs, or model files; at least two, evaluated on the same test split"""
    candidates: Place | None = None
    """YAML file, name of a candidate -> its options where they differ from this command's; each is trained in every
    fold"""
    archs: str | None = None
    """architectures, separated by commas, that differ in nothing else; each is trained in every fold"""
    seeds: str = "0"
    """seeds, separated by commas; a candidate is trained once in every fold with each of them"""
    reference: str | None = None
    """name of the candidate that the others are compared with; default is the first"""
    metric: ComparisonMetric = "accuracy"
    """metric of the verdict, chosen before the results are known; the others are in the tables"""
    positive: str | None = None
    """class whose recall is the sensitivity; default is malignant, where there is such a class"""
    parallel: int | Literal["auto"] = "auto"
    """trainings at a time; auto is one for every train.workers GPUs, and 1 on CPUs"""

    def __post_init__(self) -> None:
        super().__post_init__()
        ways = [name for name in ("models", "candidates", "archs") if getattr(self, name)]
        check(len(ways) > 0, "nothing to compare; give finished models, --candidates FILE.yaml or --archs A,B")
        check(len(ways) == 1, f"{' and '.join(ways)} are given; compare one kind of candidates at a time")
        if self.models:
            check(len(self.models) > 1, f"one model only, {self.models[0]}; a comparison needs two")
            self._check_no_training()
        if self.archs is not None:
            check(len(self.arch_names) > 1, f"archs is {self.archs}, one candidate only; a comparison needs two")
            check(
                len(set(self.arch_names)) == len(self.arch_names),
                f"archs is {self.archs}, which has two candidates alike",
            )
        known = [seed.isdigit() and int(seed) < 2**32 for seed in self.seeds.split(",")]
        check(all(known), f"seeds is {self.seeds!r}; give whole numbers from 0 on, separated by commas")
        check(len(set(self.seed_numbers)) == len(known), f"seeds is {self.seeds}, which has the same seed twice")
        check(self.train.seed == 0, f"train.seed is {self.train.seed}; compare takes its seeds from --seeds")
        check(self.train.dry_run == 0, f"train.dry_run is {self.train.dry_run}; compare has no dry run")
        check(self.parallel == "auto" or self.parallel >= 1, f"parallel is {self.parallel}; it must be at least 1")

    @property
    def arch_names(self) -> list[str]:
        """Architectures in ``archs``."""
        return [name.strip() for name in (self.archs or "").split(",")]

    @property
    def seed_numbers(self) -> list[int]:
        """Seeds in ``seeds``."""
        return [int(seed) for seed in self.seeds.split(",")]

    def _check_no_training(self) -> None:
        """Check that no option of a training is given, which finished models would not follow."""
        usual = TrainingOptions(self.dataset, self.out)
        training = [each.name for each in fields(usual) if each.name != "cluster"]
        changed = [name for name in training if getattr(self, name) != getattr(usual, name)]
        check(not changed, f"options of {', '.join(changed)} are given, but finished models are not trained")
        check(self.seeds == "0", f"seeds is {self.seeds}, but finished models are not trained")
