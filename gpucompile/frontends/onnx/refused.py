"""Ops of ONNX's own domain that the importer does not take, and why: errors and docs/onnx.md say the same."""

from __future__ import annotations

REFUSED = {
    "Bernoulli": "random numbers: results would not be reproducible",
    "BitCast": "the graph has no op that reinterprets bits",
    "ImageDecoder": "decoding images is left to the host",
    "MaxRoiPool": "maxima over regions, whose sizes depend on the data",
    "Multinomial": "random numbers: results would not be reproducible",
    "NonMaxSuppression": "the result's size depends on the data",
    "RandomNormal": "random numbers: results would not be reproducible",
    "RandomNormalLike": "random numbers: results would not be reproducible",
    "RandomUniform": "random numbers: results would not be reproducible",
    "RandomUniformLike": "random numbers: results would not be reproducible",
    "RegexFullMatch": "strings",
    "StringConcat": "strings",
    "StringNormalizer": "strings",
    "StringSplit": "strings",
    "TfIdfVectorizer": "strings and sparse counting are left to the host",
}
