"""A network, known by its entry point alone."""

from torch import Tensor, nn


class LaneNet(nn.Module):
    """Logits at a quarter of the image's size."""

    def __init__(self, num_classes: int, width: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=4, padding=1), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body(images))
        return logits
