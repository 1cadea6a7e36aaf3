"""From a sampler to batches of examples: Python iterators on the host, and grain's samplers."""

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradax import _optional, _validate
from gradax.schedules._protocols import Sampler


def _host() -> contextlib.AbstractContextManager:
    """Draws happen on the CPU: on an accelerator they would wait for the training step."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # no CPU backend was asked for
        return contextlib.nullcontext()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


class _Choices:
    """Choices of a sampler, one after the other."""

    def __init__(self, sampler: Sampler, seed: int):
        self._sample = jax.jit(sampler.sample)
        with _host():
            self._state = sampler.init(seed)

    def take(self) -> np.ndarray:
        with _host():
            choice, self._state = self._sample(self._state)
        return np.asarray(choice)

    def get_state(self) -> list[np.ndarray]:
        raw = lambda leaf: np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        return [raw(leaf) for leaf in jax.tree.leaves(self._state)]

    def set_state(self, saved: Sequence[Any]) -> None:
        leaves, tree = jax.tree.flatten(self._state)

        def back(new, old):
            if _is_key(old):
                data = jnp.asarray(new, jnp.uint32)
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
            return jnp.asarray(new, old.dtype)

        with _host():
            restored = [back(new, old) for new, old in zip(saved, leaves, strict=True)]
        self._state = jax.tree.unflatten(tree, restored)


class _Dealer:
    """Deals out the examples of each group in an order that is new in every pass.

    The order of a pass follows from seed, group and number of the pass, so that the number of
    examples dealt is all there is to remember.
    """

    def __init__(self, groups: Sequence[np.ndarray], seed: int, shuffle: bool = True):
        self._groups, self._seed, self._shuffle = groups, seed, shuffle
        self.dealt = np.zeros(len(groups), np.int64)
        self._order: dict[int, tuple[int, np.ndarray]] = {}

    def _pass(self, group: int, number: int) -> np.ndarray:
        if self._order.get(group, (None,))[0] != number:
            order = self._groups[group]
            if self._shuffle:
                order = np.random.default_rng((self._seed, group, number)).permutation(order)
            self._order[group] = number, order
        return self._order[group][1]

    def deal(self, choices: np.ndarray) -> np.ndarray:
        """Takes the next example of each group that was chosen, in any shape."""
        flat, out = choices.ravel(), np.empty(choices.size, np.int64)
        for group in np.unique(flat):
            places = np.flatnonzero(flat == group)
            numbers = self.dealt[group] + np.arange(len(places))
            passes, offsets = np.divmod(numbers, len(self._groups[group]))
            for number in np.unique(passes):
                now = passes == number
                out[places[now]] = self._pass(int(group), int(number))[offsets[now]]
            self.dealt[group] += len(places)
        return out.reshape(choices.shape)


class BatchIterator:
    """An endless or finite stream of batches that can be saved and resumed; see :func:`batches`.

    It is an ordinary Python iterator: use ``for`` or ``next``.
    """

    def __init__(self, arrays: Any, source: Any):
        self._arrays, self._source = arrays, source

    def __iter__(self) -> "BatchIterator":
        return self

    def __next__(self) -> Any:
        index = self._source.take()
        return jax.tree.map(lambda leaf: leaf[index], self._arrays)

    def get_state(self) -> dict[str, Any]:
        """Tells where the stream is.

        Returns:
          A dictionary of integers and small NumPy arrays, for pickle or any checkpointer. It
          does not change when the stream goes on.
        """
        return self._source.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to where a stream with the same arguments was.

        Args:
          state: of :meth:`get_state`.

        Raises:
          ValueError: if it is the state of a stream of another kind or seed.
        """
        expected = self._source.get_state()
        if set(state) != set(expected) or int(state["seed"]) != expected["seed"]:
            raise ValueError(
                f"batches: state must come from the same arguments, with {sorted(expected)} and "
                f"seed {expected['seed']}; got {sorted(state)} and seed {state.get('seed')}."
            )
        self._source.set_state(state)


class _Epochs:
    """Indices of one pass after the other; a batch does not reach into the next pass."""

    def __init__(self, size, batch_size, seed, shuffle, drop_last, num_epochs):
        self._dealer = _Dealer([np.arange(size)], seed, shuffle)
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._end = size - size % batch_size if drop_last else size
        self._num_epochs, self._epoch, self._position = num_epochs, 0, 0

    def take(self) -> np.ndarray:
        if self._position >= self._end:
            self._epoch, self._position = self._epoch + 1, 0
        if self._num_epochs is not None and self._epoch >= self._num_epochs:
            raise StopIteration
        stop = min(self._position + self._batch_size, self._size)
        self._dealer.dealt[0] = self._epoch * self._size + self._position
        index = self._dealer.deal(np.zeros(stop - self._position, np.int64))
        self._position = stop
        return index

    def get_state(self) -> dict[str, Any]:
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        self._epoch, self._position = int(state["epoch"]), int(state["position"])


class _Sampled:
    """Indices that a sampler chooses, or the examples of groups that it chooses."""

    def __init__(self, sampler, seed, size, groups):
        self._choices, self._seed, self._size = _Choices(sampler, seed), seed, size
        self._dealer = None if groups is None else _Dealer(groups, seed)

    def take(self) -> np.ndarray:
        return _examples_of(self._choices.take(), self._dealer, self._size)

    def get_state(self) -> dict[str, Any]:
        dealt = {} if self._dealer is None else {"dealt": self._dealer.dealt.copy()}
        return {"seed": self._seed, "sampler": self._choices.get_state()} | dealt

    def set_state(self, state: dict[str, Any]) -> None:
        self._choices.set_state(state["sampler"])
        if self._dealer is not None:
            self._dealer.dealt = np.array(state["dealt"], np.int64)


def _examples_of(choices: np.ndarray, dealer: _Dealer | None, size: int) -> np.ndarray:
    """Indices of examples, from a sampler's choices of examples or groups."""
    allowed = size if dealer is None else len(dealer.dealt)
    if choices.size and not 0 <= choices.min() <= choices.max() < allowed:
        what = "examples" if dealer is None else "groups"
        raise ValueError(
            f"batches: the sampler must choose from {allowed} {what}, got {choices.min()} to "
            f"{choices.max()}."
        )
    return choices if dealer is None else dealer.deal(choices)


def batches(
    data: Any,
    batch_size: int | None = None,
    *,
    sampler: Sampler | None = None,
    groups: Sequence[np.ndarray] | None = None,
    seed: int = 0,
    shuffle: bool = True,
    num_epochs: int | None = None,
    drop_last: bool = True,
) -> BatchIterator:
    """Iterates over batches of examples, on the host, so that the stream can be resumed.

    Without a sampler each pass over the data has a new order. A sampler chooses the examples
    itself, as :func:`curriculum_pool` does; or it chooses groups, as :func:`domain_sampler`
    does, and the examples of each group are dealt out in passes of their own. The same arguments
    give the same stream. A stream that was restored by ``set_state``, in the middle of a pass
    too, goes on bit for bit; what is saved is small.

    Args:
      data: pytree of arrays with a common leading axis of examples; NumPy gathers from them.
      batch_size: examples per batch; with a sampler ``None``, since its choices have a size.
      sampler: chooses examples, or groups if there are any. It runs on the CPU.
      groups: for a sampler of groups, the indices of the examples of each.
      seed: a Python integer that decides all draws, not negative.
      shuffle: without a sampler, whether passes are shuffled.
      num_epochs: without a sampler, number of passes; ``None`` for no end.
      drop_last: without a sampler, whether a last batch that is smaller is left out.

    Returns:
      A :class:`BatchIterator` with ``get_state()`` and ``set_state(state)``; batches are like
      ``data``, NumPy arrays with the leading axes of the sampler's choice.

    Raises:
      ValueError: if arrays differ in length, arguments do not fit each other, or a group is
        empty or out of range.

    Examples:
      >>> import numpy as np
      >>> from gradax import schedules
      >>> data = {"x": np.arange(1000), "domain": np.repeat([0, 1], [900, 100])}
      >>> groups = [np.flatnonzero(data["domain"] == k) for k in range(2)]
      >>> sampler = schedules.domain_sampler([900, 100], float("inf"), batch_size=50)
      >>> stream = schedules.batches(data, sampler=sampler, groups=groups)
      >>> first = next(stream)
      >>> state = stream.get_state()
      >>> second = next(stream)
      >>> stream.set_state(state)
      >>> bool((next(stream)["x"] == second["x"]).all())
      True
    """
    arrays, size = _checked_data(data)
    _validate.integer("batches", "seed", seed, at_least=0)
    if sampler is not None:
        _check_sampled(batch_size, sampler, shuffle, num_epochs, drop_last)
        return BatchIterator(arrays, _Sampled(sampler, seed, size, _checked_groups(groups, size)))
    if groups is not None:
        raise ValueError("batches: groups= needs a sampler= that chooses from them.")
    _validate.integer("batches", "batch_size", batch_size, at_least=1)
    if num_epochs is not None:
        _validate.integer("batches", "num_epochs", num_epochs, at_least=1)
    if drop_last and batch_size > size:  # type: ignore[operator]  # checked above
        raise ValueError(
            f"batches: batch_size must not exceed the {size} examples with drop_last=True, got "
            f"{batch_size}."
        )
    return BatchIterator(arrays, _Epochs(size, batch_size, seed, shuffle, drop_last, num_epochs))


def _checked_data(data: Any) -> tuple[Any, int]:
    arrays = jax.tree.map(np.asarray, data)
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(arrays)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(
            "batches: data must hold arrays with a common leading axis of examples, got the "
            f"lengths {sorted(sizes)}."
        )
    return arrays, sizes.pop()[0]


def _check_sampled(batch_size, sampler, shuffle, num_epochs, drop_last) -> None:
    if not isinstance(sampler, Sampler):
        raise ValueError(f"batches: sampler must be a Sampler, got {sampler!r}.")
    if (batch_size, shuffle, num_epochs, drop_last) != (None, True, None, True):
        raise ValueError(
            "batches: batch_size, shuffle, num_epochs and drop_last are for streams without a "
            "sampler=, which decides all of that."
        )


def _checked_groups(groups, size: int) -> list[np.ndarray] | None:
    if groups is None:
        return None
    found = [np.asarray(group) for group in groups]
    for number, group in enumerate(found):
        whole = group.ndim == 1 and group.size and np.issubdtype(group.dtype, np.integer)
        if not whole or group.min() < 0 or group.max() >= size:
            raise ValueError(
                f"batches: groups[{number}] must hold indices of the {size} examples, got "
                f"{group.dtype}{group.shape}."
            )
    if not found:
        raise ValueError("batches: groups must hold one at least, got none.")
    return found


class GrainSampler:
    """What grain's data loader asks for records; see :func:`grain_sampler`."""

    def __init__(self, indices: np.ndarray, seed: int, metadata: Any):
        self._indices, self._seed, self._metadata = indices, seed, metadata
        # grain compares this text when it restores a checkpoint.
        self._digest = hashlib.sha256(indices.tobytes()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"grain_sampler: index must lie in [0, {len(self) - 1}], got {index}.")
        rng = np.random.Generator(np.random.Philox(key=self._seed + index))
        return self._metadata(index=index, record_key=int(self._indices[index]), rng=rng)

    def __repr__(self) -> str:
        return f"GrainSampler({len(self)} records, seed={self._seed}, {self._digest})"


def grain_sampler(
    sampler: Sampler,
    num_batches: int,
    *,
    num_examples: int | None = None,
    groups: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> GrainSampler:
    """Hands the choices of a sampler to ``grain.DataLoader`` (extra ``grain``).

    grain's workers ask for records by number and in any order, so all choices are made at once:
    eight bytes for each record. Give the loader ``shard_options`` and
    ``grain.transforms.Batch`` with the sampler's batch size, or batches mix choices. The records
    are those of :func:`batches` with the same arguments.

    Args:
      sampler: chooses examples, or groups if there are any.
      num_batches: how many times the sampler is asked.
      num_examples: number of records of grain's source, to check choices of examples; with
        groups not needed.
      groups: for a sampler of groups, the record numbers of the examples of each.
      seed: a Python integer that decides all draws, not negative.

    Returns:
      A sampler for grain of ``num_batches`` times the size of a choice. Each record has a random
      generator of its own.

    Raises:
      ImportError: if grain is not installed.
      ValueError: if a number is too small, or a choice or a group is out of range.

    Examples:
      >>> from gradax import schedules
      >>> sampler = schedules.domain_sampler([900, 100], 2.0, batch_size=4)
      >>> groups = [range(900), range(900, 1000)]
      >>> try:
      ...     records = len(schedules.grain_sampler(sampler, 25, groups=groups))
      ... except ImportError:  # without the extra
      ...     records = 100
      >>> records
      100
    """
    who = "grain_sampler"
    metadata = _optional.load("grain", "grain", who).RecordMetadata
    _validate.integer(who, "num_batches", num_batches, at_least=1)
    _validate.integer(who, "seed", seed, at_least=0)
    if num_examples is not None:
        _validate.integer(who, "num_examples", num_examples, at_least=1)
    size = np.iinfo(np.int64).max if num_examples is None else num_examples
    checked = _checked_groups(groups, size)
    dealer = None if checked is None else _Dealer(checked, seed)
    with _host():
        run = lambda state: jax.lax.scan(
            lambda s, _: sampler.sample(s)[::-1], state, length=num_batches
        )
        choices = np.asarray(jax.jit(run)(sampler.init(seed))[1])
    indices = _examples_of(choices.astype(np.int64), dealer, size)
    return GrainSampler(indices.ravel(), seed, metadata)
