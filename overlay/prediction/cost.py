"""Cost of a prediction: images for each core-second and GPU-second, from which a bill can be worked out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OccupiedHardware:
    """Hardware that a command occupies, busy or not: this machine's, or that of the Ray cluster."""

    cores: float
    """CPU cores, of all nodes"""
    gpus: float = 0.0
    """GPUs that hold the model; a fraction where processes share one"""

    def cost_values(self, images: int, seconds: float) -> dict[str, tuple[float, str]]:
        """Return rows of ``metrics.parquet``, name -> value and unit, of ``images`` that took ``seconds`` in all."""
        rate = images / max(seconds, 1e-9)
        values = {"images_per_core_second": (rate / self.cores, "images/core-s")}
        if self.gpus:
            values["images_per_gpu_second"] = (rate / self.gpus, "images/GPU-s")
        return values

    def describe_cost(self, images: int, seconds: float) -> str:
        """Return the same as text: "12.5 images/core-s on 2 cores, 300 images/GPU-s on 1 GPU"."""
        values = self.cost_values(images, seconds)
        owned = {"images_per_core_second": ("core", self.cores), "images_per_gpu_second": ("GPU", self.gpus)}
        texts = []
        for name, (value, unit) in values.items():
            what, number = owned[name]
            texts.append(f"{value:.3g} {unit} on {number:g} {what}{'s' if number != 1 else ''}")
        return ", ".join(texts)
