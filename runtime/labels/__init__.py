"""Label spaces, label files, maps between spaces, and metrics of label maps."""

from .spaces import LABEL_SPACES, LabelSpace, label_space, read_labels

__all__ = ["LABEL_SPACES", "LabelSpace", "label_space", "read_labels"]
