"""Inference module: normalisation, network and softmax as one torch module, for every engine and for ONNX export."""

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from overlay.models import model_file
from overlay.models.model_file import ModelFile
from overlay.models.network import head_name, normalise


class InferenceModule(nn.Module):
    """Pixels uint8 (n, size, size, 3) to probabilities (n, classes) and embeddings (n, d), both float32.

    An embedding is the input of the network's last layer. Batch normalisation is folded into the convolutions before it
    (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    section 3.2), while the weights are float32; only then do they become ``dtype``.
    """

    def __init__(self, file: ModelFile, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        network = model_file.build_network(file)
        last = head_name(network)
        self.embedding_size = int(network.get_submodule(last).in_features)  # type: ignore[arg-type]
        self._network = _with_embeddings(fuse(network), last).to(dtype)
        self._dtype = dtype
        self.register_buffer("_mean", torch.tensor(file.card.mean))
        self.register_buffer("_std", torch.tensor(file.card.std))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Classify a batch."""
        images = normalise(pixels, self._mean, self._std)  # type: ignore[arg-type]
        logits, embeddings = self._network(images.to(self._dtype))
        return logits.float().softmax(dim=1), embeddings.float()


def _with_embeddings(network: nn.Module, last: str) -> fx.GraphModule:
    """Make a traced network return the input of its last layer beside its output."""
    assert isinstance(network, fx.GraphModule)
    layer = next(node for node in network.graph.nodes if node.op == "call_module" and node.target == last)
    output = next(node for node in network.graph.nodes if node.op == "output")
    output.args = ((output.args[0], layer.args[0]),)
    network.recompile()
    return network
