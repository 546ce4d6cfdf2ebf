"""Networks that show their stages.

`build` makes a network by name (22 CIFAR networks, or any of torchvision and timm), `tap` shows the
stages of a module of your own, and both give a `StagedNet`: `net(x)` are logits, `net.features(x)`
everything one forward pass shows. Weights go in and out through `load_checkpoint` and
`save_checkpoint`. torchvision and timm are imported only when a network of theirs is asked for.
"""

from kdlab.models.checkpoint import Loaded, State, load_checkpoint, read_state, save_checkpoint, state_hash
from kdlab.models.costs import multiply_adds
from kdlab.models.features import Features, NetSpec, StagedNet, inspect_net
from kdlab.models.tapping import Tapped, tap
from kdlab.models.zoo import build, canonical, names, table

__all__ = [
    "Features",
    "Loaded",
    "NetSpec",
    "StagedNet",
    "State",
    "Tapped",
    "build",
    "canonical",
    "inspect_net",
    "load_checkpoint",
    "multiply_adds",
    "names",
    "read_state",
    "save_checkpoint",
    "state_hash",
    "table",
    "tap",
]
