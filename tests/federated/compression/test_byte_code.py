"""A number in one byte: what is kept, what is not, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradax import federated


def test_equals_the_worked_numbers():
    numbers = [1.0, -1.0, 0.5, -2.75, 1e-9, -1e9]
    codes = federated.encode_byte(jnp.array(numbers))
    assert codes.dtype == jnp.uint8
    assert codes.tolist() == [64, 192, 58, 200, 1, 255]
    decoded = [1, -1, 0.4723666, -2.7182818, 3.801e-4, -2630.69]
    np.testing.assert_allclose(federated.decode_byte(codes), decoded, rtol=1e-4)


def test_keeps_magnitudes_of_its_range_to_six_per_cent():
    with jax.enable_x64(True):
        numbers = np.exp(np.linspace(-63 / 8, 63 / 8, 5000)) * np.resize([1, -1], 5000)
        decoded = federated.decode_byte(federated.encode_byte(numbers))
        assert decoded.dtype == jnp.float64
        np.testing.assert_array_less(np.abs(decoded / numbers - 1), np.exp(1 / 16) - 1 + 1e-12)


def test_what_is_read_is_written_as_it_was():
    codes = jnp.arange(256).astype(jnp.uint8)
    again = federated.encode_byte(federated.decode_byte(codes))
    # Both zeros are written as the same one.
    np.testing.assert_array_equal(again, codes.at[128].set(0))


@pytest.mark.parametrize("number", [0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan])
def test_zero_and_what_is_not_finite_are_zero(number):
    assert federated.encode_byte(number) == 0


def test_a_finer_scale_keeps_more_and_reaches_less_far():
    code = federated.encode_byte(jnp.array([3.0, 1e3]), log_scale=32.0)
    decoded = federated.decode_byte(code, 32.0)
    np.testing.assert_allclose(decoded, [3.0, np.exp(63 / 32)], rtol=np.exp(1 / 64) - 1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_takes_numbers_of_any_width(dtype):
    code = federated.encode_byte(jnp.array(-1.0, dtype))
    assert code == 192
    assert federated.decode_byte(code, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_scales_are_refused(scale):
    with pytest.raises(ValueError, match=r"encode_byte: log_scale must"):
        federated.encode_byte(1.0, scale)
    with pytest.raises(ValueError, match=r"decode_byte: log_scale must"):
        federated.decode_byte(1, scale)
