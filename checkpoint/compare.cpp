#include "checkpoint/compare.h"

#include "base/error.h"
#include "checkpoint/shard_reader.h"
#include "checkpoint/tensor_bytes.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

namespace trestle::checkpoint {
namespace {

/// Elements that are looked at together.
constexpr std::uint64_t kChunk = std::uint64_t{1} << 20;

/// Reads ranges of a checkpoint's flattened tensors.
class TensorReader {
 public:
  explicit TensorReader(const ComparedCheckpoint& from) : reader_(from.folder, from.manifest) {}

  at::Tensor read(const std::string& name, const TensorRecord& tensor, std::uint64_t begin,
                  std::uint64_t end) {
    at::Tensor flat =
        at::empty({static_cast<std::int64_t>(end - begin)}, scalar_type_of(tensor.dtype));
    const std::span<std::byte> bytes = bytes_of(flat);
    const std::uint64_t element_bytes = formats::element_bytes(tensor.dtype);
    for (const PieceRecord& piece : tensor.pieces) {
      const std::uint64_t from = std::max(piece.begin, begin), to = std::min(piece.end, end);
      if (from >= to) continue;
      reader_.read(piece.file, piece.offset + (from - piece.begin) * element_bytes,
                   bytes.subspan((from - begin) * element_bytes, (to - from) * element_bytes),
                   name);
    }
    return flat;
  }

 private:
  ShardReader reader_;
};

std::uint64_t count(const at::Tensor& mask) {
  return static_cast<std::uint64_t>(mask.sum().item<std::int64_t>());
}

/// Whether elements have the same bits, whatever they mean.
at::Tensor other_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::ScalarType bits = a.element_size() == 8   ? at::kLong
                              : a.element_size() == 4 ? at::kInt
                              : a.element_size() == 2 ? at::kShort
                                                      : at::kByte;
  return at::ne(a.view(bits), b.view(bits));
}

void add_elements(TensorDifference& difference, const at::Tensor& a, const at::Tensor& b) {
  difference.elements += static_cast<std::uint64_t>(a.numel());
  const at::Tensor unequal = other_bits(a, b);
  const std::uint64_t here = count(unequal);
  if (here == 0) return;
  difference.unequal += here;
  const at::Tensor x = a.masked_select(unequal).to(at::kDouble);
  const at::Tensor y = b.masked_select(unequal).to(at::kDouble);
  const at::Tensor finite = at::isfinite(x).logical_and(at::isfinite(y));
  difference.not_finite += here - count(finite);
  const at::Tensor u = x.masked_select(finite), v = y.masked_select(finite);
  if (u.numel() == 0) return;
  const at::Tensor distance = (u - v).abs();
  const at::Tensor size = at::maximum(u.abs(), v.abs());
  const at::Tensor relative = at::where(size > 0, distance / size, at::zeros_like(size));
  difference.max_abs = std::max(difference.max_abs, distance.max().item<double>());
  difference.max_rel = std::max(difference.max_rel, relative.max().item<double>());
}

bool same_value(const Value& a, const Value& b) {
  if (a.index() != b.index()) return false;
  if (const auto* x = std::get_if<double>(&a)) {  // so that a NaN equals itself
    return std::bit_cast<std::uint64_t>(*x) == std::bit_cast<std::uint64_t>(std::get<double>(b));
  }
  return a == b;
}

/// Calls f with each name and what either side has of it; null where it has nothing.
template <class T, class F>
void for_both(const std::map<std::string, T>& a, const std::map<std::string, T>& b, F&& f) {
  for (const auto& [name, of_a] : a) {
    const auto found = b.find(name);
    f(name, &of_a, found == b.end() ? nullptr : &found->second);
  }
  for (const auto& [name, of_b] : b)
    if (!a.contains(name)) f(name, static_cast<const T*>(nullptr), &of_b);
}

}  // namespace

TensorSummary summarise(const std::filesystem::path& checkpoint, const Manifest& manifest,
                        const std::string& name) {
  const TensorRecord& tensor = manifest.tensors.at(name);
  TensorReader reader({checkpoint, manifest});
  TensorSummariser summariser;
  for (std::uint64_t begin = 0; begin < tensor.elements(); begin += kChunk) {
    summariser.add(reader.read(name, tensor, begin, std::min(begin + kChunk, tensor.elements())));
  }
  return summariser.summary();
}

Comparison compare(const ComparedCheckpoint& a, const ComparedCheckpoint& b) {
  using Kind = TensorDifference::Kind;
  Comparison comparison;
  TensorReader in_a(a), in_b(b);
  for_both(a.manifest.tensors, b.manifest.tensors,
           [&](const std::string& name, const TensorRecord* x, const TensorRecord* y) {
             TensorDifference difference{.name = name};
             if (x == nullptr || y == nullptr) {
               difference.kind = y == nullptr ? Kind::only_in_a : Kind::only_in_b;
             } else if (x->shape != y->shape || x->dtype != y->dtype) {
               difference.kind = Kind::shape_or_dtype;
             } else {
               for (std::uint64_t begin = 0; begin < x->elements(); begin += kChunk) {
                 const std::uint64_t end = std::min(begin + kChunk, x->elements());
                 add_elements(difference, in_a.read(name, *x, begin, end),
                              in_b.read(name, *y, begin, end));
               }
               if (difference.unequal == 0) {
                 ++comparison.equal_tensors;
                 return;
               }
             }
             comparison.tensors.push_back(std::move(difference));
           });
  for_both(a.manifest.values, b.manifest.values,
           [&](const std::string& name, const Value* x, const Value* y) {
             if (x != nullptr && y != nullptr && same_value(*x, *y)) {
               ++comparison.equal_values;
               return;
             }
             const auto copy = [](const Value* v) { return v ? std::optional(*v) : std::nullopt; };
             comparison.values.push_back({name, copy(x), copy(y)});
           });
  std::ranges::sort(comparison.tensors, {}, &TensorDifference::name);
  std::ranges::sort(comparison.values, {}, &ValueDifference::name);
  return comparison;
}

}  // namespace trestle::checkpoint
