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
#include <span>
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

  /// A section that says again what another says, for a part of it: [optim.lora] over [optim]. What
  /// it leaves out is as in the section `inherits`.
  template <class Options>
  void overlay(const std::string& name, const std::string& inherits) {
    add(
        name, [](Fields& fields) { Options().describe(fields); }, inherits);
  }

  /// In the order of description; options of one section stand together.
  const std::vector<DescribedOption>& options() const { return options_; }
  /// In the order of their first description.
  const std::vector<std::string>& sections() const { return sections_; }

  bool has_section(std::string_view name) const;
  const DescribedOption* find(std::string_view section, std::string_view key) const;
  /// Where an option that nobody says has its value from; null: its own default.
  const DescribedOption* inherited(const DescribedOption& option) const;
  /// The option that `option.needs` names; a need that no recipe can meet, or one of an option that
  /// has needs itself, is a bug (std::logic_error).
  const DescribedOption& needed_by(const DescribedOption& option) const;
  std::vector<std::string> keys(std::string_view section) const;

 private:
  void add(const std::string& name, const std::function<void(Fields&)>& describe,
           const std::string& inherits = "");

  std::vector<DescribedOption> options_;
  std::vector<std::string> sections_;
};

/// Options that belong together on the reference page.
struct ReferenceChapter {
  std::string title;
  std::string introduction;
  Schema schema;
};

/// A page for people: a table a section with all that explain shows, save what a recipe says.
std::string reference_markdown(std::span<const ReferenceChapter> chapters);

}  // namespace trestle::configs
