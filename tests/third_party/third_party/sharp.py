"""A method, known by its entry point alone."""

from collections.abc import Sequence

from roadshift import Batch, Method, Settings, Stage
from torch import Tensor


class SharpConfig(Settings):
    """One setting."""

    power: float = 2.0


class SharpStage(Stage):
    """The sum of powers of the probabilities is made large."""

    name = "sharp"

    def __init__(self, settings: SharpConfig) -> None:
        self.power = settings.power

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(self.context.normalise(batch.augmented)).logits
        return {"sharp": -logits.softmax(dim=1).pow(self.power).sum(dim=1).mean()}


class Sharp(Method):
    """Sharp predictions."""

    name = "sharp"
    summary = "high powers of the probabilities"
    source = "a third party"
    Config = SharpConfig

    @staticmethod
    def stages(settings: SharpConfig) -> Sequence[Stage]:
        return [SharpStage(settings)]
