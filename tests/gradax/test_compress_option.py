"""Compressors written as text."""

import jax
import jax.numpy as jnp
import optax
import pytest

from gradax import federated
from gradax._compress_option import compress_messages, parse_compressor

FORMS = {
    "topk:0.01": federated.top_k(0.01),
    "randk:0.1": federated.rand_k(0.1),
    "sign": federated.sign_l1(),
    "natural": federated.natural_compression().shrunk(),
    "qsgd:127": federated.qsgd(127).shrunk(),
    "dithering:4": federated.natural_dithering(4).shrunk(),
    "powersgd:2": federated.power_sgd(2),
    "none": federated.no_compression(),
    "topk:0.05 + sign": federated.top_k(0.05).then(federated.sign_l1()),
    "topk:0.05+qsgd:4": federated.top_k(0.05).then(federated.qsgd(4).shrunk()),
}


@pytest.mark.parametrize("text", FORMS)
def test_makes_the_compressor_fit_for_error_feedback(text):
    assert parse_compressor(text) == FORMS[text]
    assert parse_compressor(text).is_contractive


BAD = [
    ("", "expected one of topk:FRACTION"),
    ("topk", "expected one of topk:FRACTION.*got 'topk'"),
    ("sign:3", "got 'sign:3'"),
    ("top:0.1", "got 'top:0.1'"),
    ("topk:", "got 'topk:'"),
    ("qsgd:2.5", "'2.5' in 'qsgd:2.5' is no int"),
    ("topk:much", "'much' in 'topk:much' is no float"),
    ("topk:0", r"fraction must lie in \(0, 1\], got 0.0"),
    ("qsgd:0", "s must be an integer >= 1"),
    ("sign+topk:0.1", "first must be top_k or rand_k"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_refuses(text, message):
    with pytest.raises(ValueError, match=message):
        parse_compressor(text)


def test_the_clients_of_an_algorithm_send_less():
    algorithm = compress_messages(federated.fedavg(0.1), "randk:0.5", key=3)
    state = jax.eval_shape(algorithm.client.init, jnp.zeros(4))
    assert optax.tree_utils.tree_get(state, "wire_bytes").shape == ()
    with pytest.raises(ValueError, match="only messages to a server"):
        compress_messages(federated.peers(optax.sgd(0.1)), "sign")
