// The pickle inside a file of torch.save, as plain data. Nothing in it is executed: a pickle is a
// program for a stack machine that may call whatever Python has, and this machine knows only the
// instructions with which torch.save writes None, truth values, numbers, texts, lists, tuples,
// dicts and tensors, and five functions by name, which it does itself. All else is refused by its
// name. It makes at most kMaxValues values and kMaxTensors tensors, whatever the pickle says.
//
// LOCAL. THREADS: any, one a reading. Throws FileProblem (file_problem.h).
//   const Pickle pickle = read_torch_pickle(text);   // the text outlives it
//   if (const auto* dict = std::get_if<Pickle::Dict>(&pickle[pickle.root])) ...
// Format: the comments of Python's pickletools.py; torch/serialization.py and torch/_utils.py.
#pragma once
#include "formats/element_type.h"

#include <cstdint>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace trestle::formats {

/// A tensor as it is pickled: a view of a storage, whose bytes lie elsewhere in the file.
struct PickledTensor {
  std::string_view storage;         ///< its key
  std::uint64_t storage_bytes = 0;  ///< the view lies within
  ElementType dtype = ElementType::float32;
  std::uint64_t offset = 0;           ///< of the first element, in elements
  std::vector<std::int64_t> shape;    ///< [] is a scalar
  std::vector<std::int64_t> strides;  ///< in elements, none below 0
  std::uint64_t span = 0;             ///< elements from the first to the last one, both counted
};

struct Pickle {
  static constexpr std::size_t kMaxValues = 2'000'000;
  static constexpr std::size_t kMaxTensors = 100'000;
  using Handle = std::uint32_t;  ///< of a value; two places may hold the same, and rings exist

  enum class Function : std::uint8_t {
    ordered_dict,
    tensor_v2,
    tensor_v3,
    parameter,
    parameter_with_state
  };
  struct None {};
  struct BigInteger {};  ///< one that does not fit in 64 bits
  struct List {
    std::vector<Handle> items;
  };
  struct Tuple {
    std::vector<Handle> items;
  };
  struct Dict {
    std::vector<std::pair<Handle, Handle>> items;  ///< in order
  };
  struct StorageClass {
    ElementType dtype;
    bool typed;  ///< false: bytes of any dtype
  };
  struct Storage {
    std::string_view key;
    std::uint64_t bytes;
    StorageClass kind;
  };
  struct Tensor {
    std::uint32_t index;  ///< in `tensors`
  };
  using Value = std::variant<None, bool, std::int64_t, BigInteger, double, std::string_view, List,
                             Tuple, Dict, Function, StorageClass, ElementType, Storage, Tensor>;

  const Value& operator[](Handle handle) const { return values[handle]; }

  std::vector<Value> values;
  std::vector<PickledTensor> tensors;
  Handle root = 0;
};

Pickle read_torch_pickle(std::string_view text);

}  // namespace trestle::formats
