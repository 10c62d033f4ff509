"""Where tensors lie in memory: token after token, channels in their order, every token from a beat on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiler.trace import ZERO, View


@dataclass(frozen=True)
class Region:
    """Tokens from number `first` on, at `address` and then every `pitch` bytes, each `beats` beats of `beat` bytes.

    dense: all values side by side, tokens begin anywhere (the picture, for patches). zeros: address of a beat of zeros.
    """

    address: int
    pitch: int
    beats: int
    beat: int
    zeros: int
    first: int = 0
    dense: bool = False

    def of_tokens(self, start: int, stop: int) -> NDArray[np.int64]:
        """Addresses int64 (tokens, beats) of the beats of tokens start..stop."""
        token = np.arange(start - self.first, stop - self.first)
        return self.address + token[:, None] * self.pitch + np.arange(self.beats) * self.beat

    def of_view(self, view: View, start: int, stop: int) -> NDArray[np.int64]:
        """Addresses int64 (tokens, beats of a token of the view) of what its tokens start..stop read."""
        if view.beats is None:
            return self.of_tokens(start, stop)
        number = view.beats[start:stop].astype(np.int64)
        if self.dense:
            address = self.address + number * self.beat
        else:
            token, beat = np.divmod(number, self.beats)
            address = self.address + (token - self.first) * self.pitch + beat * self.beat
        return np.where(number == ZERO, self.zeros, address)
