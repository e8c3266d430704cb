"""Values and messages, both ways."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.wrappers_pb2 import FloatValue, Int64Value, StringValue, UInt32Value
from hypothesis import given, strategies as st
from tests.collective.kit import order, order_class

from dodici.collective import CollectiveError
from dodici.collective.values import from_any, from_bytes, to_any, to_bytes
from dodici.core.errors import InvalidArgumentError, InvalidReturnValueError
from dodici.core.grpc_status import GrpcStatus

TABLE = [
    (None, "Empty"),
    (True, "BoolValue"),
    (False, "BoolValue"),
    (0, "Int64Value"),
    (-(2**63), "Int64Value"),
    (2**63 - 1, "Int64Value"),
    (1.5, "DoubleValue"),
    ("", "StringValue"),
    ("grün", "StringValue"),
    (b"\x00\xff", "BytesValue"),
    ({}, "Struct"),
    ({"a": None, "b": [1, True, 1.5, "x", {"c": []}], "d": {}}, "Struct"),
    ([], "ListValue"),
    ([None, [], {}, -1], "ListValue"),
]


@pytest.mark.parametrize(
    ("value", "name"), TABLE, ids=[f"{name}-{index}" for index, (_, name) in enumerate(TABLE)]
)
def test_the_table_both_ways(value: Any, name: str) -> None:
    packed = AnyMessage.FromString(to_any(value).SerializeToString())
    assert packed.type_url == f"type.googleapis.com/google.protobuf.{name}"
    assert from_any(packed) == value
    assert type(from_any(packed)) is type(value)


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json) | st.lists(json))
def test_dicts_and_lists_come_back_equal(value: Any) -> None:
    assert from_any(AnyMessage.FromString(to_any(value).SerializeToString())) == value


def test_messages_go_as_themselves_and_come_back() -> None:
    packed = to_any(order("a", 2))
    assert packed.type_url == "type.googleapis.com/kit.shop.Order"
    assert from_any(packed) == order("a", 2)
    assert from_any(to_any(Duration(seconds=3))) == Duration(seconds=3)


def test_an_any_stays_as_it_is_and_unknown_types_stay_any() -> None:
    unknown = AnyMessage(type_url="type.googleapis.com/nobody.knows.This", value=b"\x01\x02")
    assert to_any(unknown) is unknown
    assert from_any(unknown) is unknown


def test_a_method_of_any_takes_whatever_comes() -> None:
    packed = to_any("text")
    assert from_any(packed, AnyMessage) == packed
    assert from_any(to_any({"a": 1}), AnyMessage) == to_any({"a": 1})


def test_other_wrappers_and_a_bare_value_come_back_too() -> None:
    assert from_any(to_any(UInt32Value(value=7))) == 7
    assert from_any(to_any(FloatValue(value=0.5))) == 0.5
    assert from_any(to_any(Value(string_value="x"))) == "x"
    assert from_any(AnyMessage()) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (2**63, "64 bits"),
        ({"a": 2**53 + 1}, r"value\['a'\] is 9007199254740993, which is not exact"),
        ({"a": [{"b": {1, 2}}]}, r"value\['a'\]\[0\]\['b'\] is a set"),
        ({1: 2}, "keys must be str, and value has 1"),
        ([b"x"], r"value\[0\] is a bytes"),
        ([math.nan], "nan"),
        ({"a": math.inf}, "inf"),
        ("\ud800", "UTF-8"),
        (["\ud800"], "UTF-8"),
        (object(), "no value for the wire: object"),
        ({1, 2}, "no value for the wire: set"),
    ],
    ids=[
        "int64",
        "exact",
        "nested",
        "key",
        "bytes",
        "nan",
        "inf",
        "surrogate",
        "surrogate-within",
        "object",
        "set",
    ],
)
def test_other_values_are_refused_clearly(value: Any, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        to_any(value)


def test_depth_is_bounded_by_what_can_be_read_again() -> None:
    deep: Any = "end"
    for _ in range(32):
        deep = {"d": deep}
    assert from_any(AnyMessage.FromString(to_any(deep).SerializeToString())) == deep
    with pytest.raises(InvalidArgumentError, match="32 levels"):
        to_any({"d": deep})
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidArgumentError, match="circle"):
        to_any(circle)


# -- with a type ---------------------------------------------------------------------------------------------


def test_an_input_becomes_the_type_of_its_method() -> None:
    kind = order_class()
    assert from_any(to_any(order("a", 2)), kind) == order("a", 2)
    assert from_any(to_any({"sku": "a", "count": 2}), kind) == order("a", 2)
    assert from_any(to_any(None), kind) == order()
    assert from_any(AnyMessage(), kind) == order()


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (to_any("text"), "a kit.shop.Order is due, not a google.protobuf.StringValue"),
        (to_any({"nothing": 1}), "no kit.shop.Order: .*nothing"),
        (AnyMessage(type_url="x/kit.shop.Order", value=b"\xff"), "not a kit.shop.Order"),
    ],
    ids=["other", "json", "broken"],
)
def test_an_input_of_another_type_is_an_invalid_argument(packed: AnyMessage, said: str) -> None:
    with pytest.raises(CollectiveError, match=said) as caught:
        from_any(packed, order_class())
    assert caught.value.grpc_status is GrpcStatus.INVALID_ARGUMENT


def test_broken_and_nameless_inputs_are_invalid_arguments() -> None:
    for packed in (
        AnyMessage(type_url="x/google.protobuf.Struct", value=b"\xff"),
        AnyMessage(value=b"\x01"),
    ):
        with pytest.raises(CollectiveError) as caught:
            from_any(packed)
        assert caught.value.status == 400


def test_payloads_of_the_transparent_face() -> None:
    kind = order_class()
    assert from_bytes(order("a").SerializeToString(), kind) == order("a")
    assert from_bytes(b"\xff", None) == b"\xff"
    assert to_bytes(order("a"), kind) == order("a").SerializeToString()
    assert to_bytes({"sku": "a"}, kind) == order("a").SerializeToString()
    assert to_bytes(None, kind) == b""
    assert to_bytes(b"raw", kind) == to_bytes(b"raw", None) == b"raw"
    assert to_bytes(order("a"), None) == order("a").SerializeToString()
    assert to_bytes(5, Int64Value) == Int64Value(value=5).SerializeToString()
    assert to_bytes({"a": 1}, Struct) == to_any({"a": 1}).value


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("text", None, "bytes or a message"),
        ({"a": 1}, None, "bytes or a message"),
        ("text", order_class(), "a kit.shop.Order is due, not str"),
        (Int64Value(), order_class(), "a kit.shop.Order is due, not a google.protobuf.Int64Value"),
        ({"nothing": 1}, order_class(), "nothing"),
    ],
    ids=["str", "dict", "typed-str", "message", "json"],
)
def test_answers_of_another_type_are_refused(value: Any, kind: Any, said: str) -> None:
    with pytest.raises(InvalidReturnValueError, match=said):
        to_bytes(value, kind)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"sku": b"a"}, "value['sku'] is bytes"),
        ({"kids": [{"sku": bytearray(b"")}]}, "value['kids'][0]['sku']"),
    ],
)
def test_bytes_in_a_dict_are_not_taken_for_base64(value: Any, where: str) -> None:
    with pytest.raises(InvalidReturnValueError) as caught:
        to_bytes(value, order_class())
    assert where in caught.value.message


def test_a_dict_that_the_parser_stumbles_over_is_a_wrong_input() -> None:
    struct = Struct()
    struct.update({"value": "x"})
    with pytest.raises(CollectiveError) as caught:
        from_any(to_any(struct), StringValue)
    assert caught.value.grpc_status is GrpcStatus.INVALID_ARGUMENT
    endless: dict[str, Any] = {}
    endless["fields"] = {"a": {"struct_value": endless}}
    with pytest.raises(InvalidReturnValueError):
        to_bytes(endless, Value)
