#include "models/weights/contract.h"

#include "base/error.h"
#include "base/problem_list.h"
#include "configs/nearest.h"
#include "models/weights/dtypes.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <map>
#include <utility>

namespace trestle::models::weights {
namespace {

using formats::StoredTensor;

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

/// What is wrong in one way.
struct Problems {
  const char* what = "";
  ProblemList list = {};

  template <class Line>
  void add(Line&& line) {
    list.add([&] { return fmt::format("{}: {}", what, line()); });
  }
};

enum class Kind { boolean, integer, real, complex };

Kind kind_of(at::ScalarType dtype) {
  if (dtype == at::kBool) return Kind::boolean;
  if (at::isComplexType(dtype)) return Kind::complex;
  return at::isFloatingType(dtype) ? Kind::real : Kind::integer;
}

/// The stored tensors under the model's names.
std::map<std::string, const StoredTensor*> by_model_name(const Source& source, const Rename& rename,
                                                         std::size_t& left_out) {
  std::map<std::string, const StoredTensor*> result;
  for (const StoredTensor& tensor : source.tensors()) {
    auto name = rename ? rename(tensor.name) : std::optional(tensor.name);
    if (!name) {
      ++left_out;
      continue;
    }
    const auto [found, is_new] = result.emplace(std::move(*name), &tensor);
    TRESTLE_REQUIRE_AS(data, is_new,
                       "{}: the tensors \"{}\" and \"{}\" would both be \"{}\". Remove one.",
                       source.path().string(), formats::plain_name(found->second->name),
                       formats::plain_name(tensor.name), formats::plain_name(found->first));
  }
  return result;
}

}  // namespace

Rename strip_prefix(std::string prefix) {
  return [prefix = std::move(prefix)](std::string_view name) -> std::optional<std::string> {
    if (name.starts_with(prefix)) name.remove_prefix(prefix.size());
    return std::string(name);
  };
}

Rename only_below(std::string prefix) {
  return [prefix = std::move(prefix)](std::string_view name) -> std::optional<std::string> {
    if (!name.starts_with(prefix)) return std::nullopt;
    return std::string(name.substr(prefix.size()));
  };
}

Match match(const Source& source, std::span<const nn::NamedParameter> parameters,
            const Rename& rename) {
  Match result;
  auto rest = by_model_name(source, rename, result.left_out);
  Problems missing{"missing"}, surplus{"not in the model"}, shapes{"of another shape"},
      kinds{"of another kind"};
  std::vector<const nn::NamedParameter*> absent;
  for (const nn::NamedParameter& parameter : parameters) {
    const auto found = rest.find(parameter.name);
    if (found == rest.end()) {
      absent.push_back(&parameter);
      continue;
    }
    const StoredTensor& stored = *found->second;
    const at::ScalarType dtype = parameter.tensor.scalar_type();
    if (at::IntArrayRef(stored.shape) != parameter.tensor.sizes()) {
      shapes.add([&] {
        return fmt::format("{} is {}, the model has {}", parameter.name, shape_text(stored.shape),
                           shape_text(parameter.tensor.sizes()));
      });
    } else if (kind_of(scalar_type_of(stored.dtype)) != kind_of(dtype)) {
      kinds.add([&] {
        return fmt::format("{} is {}, the model has {}", parameter.name,
                           formats::element_name(stored.dtype), at::toString(dtype));
      });
    }
    result.pairs.push_back({&stored, parameter.tensor});
    rest.erase(found);
  }
  std::vector<std::string> names;
  for (const auto& left : rest) {
    names.push_back(left.first);
    surplus.add([&] {
      return fmt::format("{} {}", formats::plain_name(left.first), shape_text(left.second->shape));
    });
  }
  for (const nn::NamedParameter* parameter : absent) {
    missing.add([&] {
      const std::string near = configs::nearest(parameter->name, names);
      return fmt::format(
          "{} {}{}", parameter->name, shape_text(parameter->tensor.sizes()),
          near.empty() ? "" : fmt::format(" (the file has {})", formats::plain_name(near)));
    });
  }
  std::vector<std::string> counts;
  std::string lines;
  for (const Problems* problems : {&missing, &surplus, &shapes, &kinds}) {
    const std::size_t count = problems->list.count();
    if (count == 0) continue;
    counts.push_back(fmt::format("{} {}", count, problems->what));
    lines += problems->list.lines(problems->what);
  }
  TRESTLE_REQUIRE_AS(data, counts.empty(),
                     "{} does not fit the model (of {} tensors: {}). Check that it is this model's "
                     "file, and the model's configuration:{}",
                     source.path().string(), parameters.size(), fmt::join(counts, ", "), lines);
  return result;
}

}  // namespace trestle::models::weights
