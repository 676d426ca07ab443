// The words that pickles of torch.save use, and some that others do. For torch_pickle.cpp.
#pragma once
#include "formats/element_type.h"
#include "formats/torch_pickle.h"

#include <array>
#include <string_view>
#include <utility>

namespace trestle::formats {

struct KnownFunction {
  std::string_view module, name;
  Pickle::Function function;
};
constexpr std::array<KnownFunction, 5> kFunctions = {{
    {"collections", "OrderedDict", Pickle::Function::ordered_dict},
    {"torch._utils", "_rebuild_tensor_v2", Pickle::Function::tensor_v2},
    {"torch._utils", "_rebuild_tensor_v3", Pickle::Function::tensor_v3},
    {"torch._utils", "_rebuild_parameter", Pickle::Function::parameter},
    {"torch._utils", "_rebuild_parameter_with_state", Pickle::Function::parameter_with_state},
}};

constexpr std::array<std::pair<std::string_view, ElementType>, 11> kStorages = {{
    {"BoolStorage", ElementType::boolean},
    {"ByteStorage", ElementType::uint8},
    {"CharStorage", ElementType::int8},
    {"ShortStorage", ElementType::int16},
    {"HalfStorage", ElementType::float16},
    {"BFloat16Storage", ElementType::bfloat16},
    {"IntStorage", ElementType::int32},
    {"FloatStorage", ElementType::float32},
    {"ComplexFloatStorage", ElementType::complex64},
    {"DoubleStorage", ElementType::float64},
    {"LongStorage", ElementType::int64},
}};

/// Instructions that other writers use; torch.save uses none of them.
constexpr std::array<std::pair<char, std::string_view>, 16> kOtherInstructions = {{
    {'i', "INST"},
    {'o', "OBJ"},
    {'\x81', "NEWOBJ"},
    {'\x92', "NEWOBJ_EX"},
    {'\x93', "STACK_GLOBAL"},
    {'P', "PERSID"},
    {'\x82', "EXT1"},
    {'\x83', "EXT2"},
    {'\x84', "EXT4"},
    {'\x95', "FRAME"},
    {'\x94', "MEMOIZE"},
    {'\x8c', "SHORT_BINUNICODE"},
    {'U', "SHORT_BINSTRING"},
    {'T', "BINSTRING"},
    {'C', "SHORT_BINBYTES"},
    {'I', "INT"},
}};

}  // namespace trestle::formats
