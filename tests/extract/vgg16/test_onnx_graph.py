import onnx

from extract.vgg16 import onnx_graph
from extract.vgg16.recipe import TAPS
from tests.conftest import Arrays


def test_the_graph_is_valid_and_states_its_shapes(vgg16_arrays: Arrays) -> None:
    model = onnx_graph.vgg16(vgg16_arrays)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        output.name: [d.dim_value for d in output.type.tensor_type.shape.dim][1:]
        for output in model.graph.output
    }
    assert shapes == {tap: [width] for tap, width in TAPS.items()}
