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

    def at(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses int64 of the first beats of tokens, any shape."""
        return self.address + (tokens - self.first) * self.pitch

    def of_tokens(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses int64 (tokens, beats) of the beats of these tokens."""
        return self.at(tokens)[:, None] + np.arange(self.beats) * self.beat

    def of_view(self, view: View, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses int64 (tokens, beats of a token of the view) of what these of its tokens read."""
        if view.beats is None:
            return self.of_tokens(tokens)
        number = view.beats[tokens].astype(np.int64)
        if self.dense:
            address = self.address + number * self.beat
        else:
            token, beat = np.divmod(number, self.beats)
            address = self.at(token) + beat * self.beat
        return np.where(number == ZERO, self.zeros, address)


@dataclass(frozen=True, kw_only=True)
class ChosenTokens(Region):
    """Some tokens of a region, by numbers of their own. numbers: int64 (n,), which token of the region each is."""

    numbers: NDArray[np.int64]

    def at(self, tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Addresses int64 of the first beats of tokens, any shape."""
        return super().at(self.numbers[tokens])
