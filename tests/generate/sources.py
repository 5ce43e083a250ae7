"""What each op's numpy reference is compared with: ONNX's reference implementation, or its definition in loops."""

from tests.generate import anchors_sources, maps_sources
from tests.generate.reference import EXCUSED, SOURCES, source_of

__all__ = ["EXCUSED", "SOURCES", "anchors_sources", "maps_sources", "source_of"]
