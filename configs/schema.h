// All options a program knows, collected from the structs that describe themselves.
//
//   configs::Schema schema;
//   schema.section<OptimOptions>("optim");
//   recipe.check(schema);
//
// LOCAL. THREADS: build on one thread, then read from any.
#pragma once
#include "configs/describe.h"

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace trestle::configs {

class Schema {
 public:
  /// Remembers defaults and descriptions of a default-made Options. Several structs may share a
  /// section; a key described twice, without help, or with a default outside its own range is a
  /// bug (std::logic_error).
  template <class Options>
  void section(const std::string& name) {
    add(name, [](Fields& fields) { Options().describe(fields); });
  }

  /// In the order of description; options of one section stand together.
  const std::vector<DescribedOption>& options() const { return options_; }
  /// In the order of their first description.
  const std::vector<std::string>& sections() const { return sections_; }

  bool has_section(std::string_view name) const;
  const DescribedOption* find(std::string_view section, std::string_view key) const;
  std::vector<std::string> keys(std::string_view section) const;

 private:
  void add(const std::string& name, const std::function<void(Fields&)>& describe);

  std::vector<DescribedOption> options_;
  std::vector<std::string> sections_;
};

/// A page for people: a table a section with key, type, default, unit, range, meaning.
std::string reference_markdown(const Schema& schema);

}  // namespace trestle::configs
