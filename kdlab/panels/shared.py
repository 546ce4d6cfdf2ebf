"""What several panels of one study have in common: the epoch, the seed, the networks, the pictures chosen."""

from __future__ import annotations

from typing import Any

import traitlets

from kdlab.errors import ConfigError


class Shared(traitlets.HasTraits):
    """The choices that panels share; each panel watches them, and any panel may change them.

    Attributes:
        epoch: of the snapshots that are shown; None follows the newest.
        seed: of the run that is shown; None for the latest.
        students: those that are shown; () for all.
        samples: places of the selected pictures among the evaluation pictures of the probe set, ascending.
        sample: the one picture under the microscope.

    >>> chosen = kdlab.panels.Shared()
    >>> chosen.select([5, 3, 5])
    >>> chosen.samples, chosen.sample
    ((3, 5), 3)
    """

    epoch = traitlets.Int(None, allow_none=True)
    seed = traitlets.Int(None, allow_none=True)
    students = traitlets.Tuple()
    samples = traitlets.Tuple()
    sample = traitlets.Int(0)

    @classmethod
    def of(cls, shared: Shared | None) -> Shared:
        """The same, or a new one for None.

        Raises:
            ConfigError: something else.
        """
        if not isinstance(shared, cls | None):
            raise ConfigError(
                f"`shared` is what panels have in common, a kdlab.panels.Shared, not {shared!r}."
            )
        return shared or cls()

    def select(self, samples: Any) -> None:
        """Choose pictures; the first comes under the microscope if the present one is not among them."""
        chosen = tuple(sorted({int(place) for place in samples}))
        with self.hold_trait_notifications():
            self.samples = chosen
            if chosen and self.sample not in chosen:
                self.sample = chosen[0]
