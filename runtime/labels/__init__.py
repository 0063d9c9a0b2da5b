"""Label spaces, label files, maps between spaces, and metrics of label maps."""

from .built_in import LABEL_SPACES, label_space
from .files import read_labels
from .spaces import LabelSpace

__all__ = ["LABEL_SPACES", "LabelSpace", "label_space", "read_labels"]
