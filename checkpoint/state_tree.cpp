#include "checkpoint/state_tree.h"

#include "base/error.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

namespace trestle::checkpoint {
namespace {

std::string_view kind_of(const Value& value) {
  constexpr std::string_view kKinds[] = {"an integer", "a float", "a text"};
  return kKinds[value.index()];
}

}  // namespace

bool Scope::loading() const { return visit_->stored_ != nullptr; }

void Scope::tensor(std::string_view name, at::Tensor& tensor) {
  TRESTLE_ASSERT(tensor.defined(), "tensor {} of the state is undefined", full_name(name));
  visit_->add({.name = full_name(name),
               .tensor = tensor,
               .shape = tensor.sizes().vec(),
               .begin = 0,
               .end = static_cast<std::uint64_t>(tensor.numel()),
               .replicated = true,
               .stage = stage_});
}

void Scope::piece(std::string_view name, at::Tensor& local, std::vector<std::int64_t> shape,
                  std::uint64_t begin) {
  TRESTLE_ASSERT(local.defined(), "tensor {} of the state is undefined", full_name(name));
  visit_->add({.name = full_name(name),
               .tensor = local,
               .shape = std::move(shape),
               .begin = begin,
               .end = begin + static_cast<std::uint64_t>(local.numel()),
               .replicated = false,
               .stage = stage_});
}

void Scope::number(std::string_view name, std::int64_t& number) { value(name, number); }
void Scope::number(std::string_view name, double& number) { value(name, number); }
void Scope::text(std::string_view name, std::string& text) { value(name, text); }

void Scope::optional_number(std::string_view name, std::int64_t& number) {
  const std::string full = full_name(name);
  if (loading() && !visit_->stored_->contains(full))
    visit_->tree.values.emplace(full, number);
  else
    value(name, number);
}

template <class T>
void Scope::value(std::string_view name, T& value) {
  const std::string full = full_name(name);
  if (loading()) {
    const auto found = visit_->stored_->find(full);
    if (found == visit_->stored_->end())
      visit_->differences.push_back(fmt::format("value {} is missing", full));
    else if (const T* stored = std::get_if<T>(&found->second))
      value = *stored;
    else
      visit_->differences.push_back(fmt::format("value {} is {} and should be {}", full,
                                                kind_of(found->second), kind_of(Value(value))));
  }
  const bool is_new = visit_->tree.values.emplace(full, value).second;
  TRESTLE_ASSERT(is_new, "value {} of the state was named twice", full);
}

Scope Scope::child(std::string_view prefix) const { return {*visit_, full_name(prefix), stage_}; }

Scope Scope::at_stage(Stage stage) const { return {*visit_, prefix_, stage}; }

void Scope::elsewhere(std::string_view prefix) {
  visit_->elsewhere.push_back(full_name(prefix) + "/");
}

std::string Scope::full_name(std::string_view name) const {
  // Parts become groups of an HDF5 file, where "." means the group itself.
  std::string_view rest = name;
  for (bool more = true; more;) {
    const std::size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    const bool plain = std::ranges::all_of(part, [](char c) { return c > ' ' && c <= '~'; });
    TRESTLE_ASSERT(plain && !part.empty() && part != ".", "\"{}\" cannot name a part of the state",
                   name);
    more = slash != std::string_view::npos;
    if (more) rest.remove_prefix(slash + 1);
  }
  return prefix_.empty() ? std::string(name) : fmt::format("{}/{}", prefix_, name);
}

Visit::Visit(const Visitor& visitor, const std::map<std::string, Value>* stored) : stored_(stored) {
  Scope root(*this, "", kUnstaged);
  visitor(root);
}

void Visit::add(StateEntry entry) {
  std::uint64_t elements = 1;
  for (const std::int64_t extent : entry.shape) elements *= static_cast<std::uint64_t>(extent);
  TRESTLE_ASSERT(entry.end <= elements, "tensor {} of the state ends at element {} of {}",
                 entry.name, entry.end, elements);
  const auto [last_end, is_new] = ends_.try_emplace(entry.name, 0);
  TRESTLE_ASSERT(is_new || (!entry.replicated && entry.begin >= last_end->second),
                 "tensor {} of the state was named twice", entry.name);
  last_end->second = entry.end;
  tree.tensors.push_back(std::move(entry));
}

StateTree collect(const Visitor& visitor) { return Visit(visitor, nullptr).tree; }

}  // namespace trestle::checkpoint
