#include "configs/schema.h"

#include "base/error.h"
#include "configs/value.h"

#include <algorithm>

namespace trestle::configs {
namespace {

class Collector : public Fields {
 public:
  explicit Collector(std::string section) : section_(std::move(section)) {}
  std::vector<DescribedOption> options;

 private:
  void visit(std::string_view key, FieldRef field, const Meta& meta) override {
    options.push_back(described(section_, key, field, meta));
    const DescribedOption& option = options.back();
    TRESTLE_ASSERT(!option.help.empty(), "{} has a help text", option.name());
    TRESTLE_ASSERT(option.choices.empty() || option.kind == OptionKind::string,
                   "only strings have choices, {} is {}", option.name(), option.type());
    const std::string problem = checked(option, to_value(field), Dialect::toml).problem;
    TRESTLE_ASSERT(problem.empty(), "the default of {}", problem);
  }

  std::string section_;
};

}  // namespace

bool Schema::has_section(std::string_view name) const {
  return std::find(sections_.begin(), sections_.end(), name) != sections_.end();
}

const DescribedOption* Schema::find(std::string_view section, std::string_view key) const {
  const auto it = std::find_if(options_.begin(), options_.end(), [&](const auto& option) {
    return option.section == section && option.key == key;
  });
  return it == options_.end() ? nullptr : &*it;
}

const DescribedOption& Schema::needed_by(const DescribedOption& option) const {
  const auto it = std::find_if(options_.begin(), options_.end(), [&](const auto& other) {
    return other.name() == option.needs->key;
  });
  TRESTLE_ASSERT(it != options_.end() && !it->needs, "{} needs {}, a free option", option.name(),
                 option.needs->key);
  const Value wanted = std::visit([](const auto& v) { return Value{v}; }, option.needs->value);
  TRESTLE_ASSERT(checked(*it, wanted, Dialect::toml).problem.empty(), "{} needs {}, which may be",
                 option.name(), option.needs->text());
  return *it;
}

std::vector<std::string> Schema::keys(std::string_view section) const {
  std::vector<std::string> keys;
  for (const DescribedOption& option : options_) {
    if (option.section == section) keys.push_back(option.key);
  }
  return keys;
}

const DescribedOption* Schema::inherited(const DescribedOption& option) const {
  if (option.inherits.empty()) return nullptr;
  const DescribedOption* from = find(option.inherits, option.key);
  TRESTLE_ASSERT(from, "{} inherits from a described option", option.name());
  return from;
}

void Schema::add(const std::string& name, const std::function<void(Fields&)>& describe,
                 const std::string& inherits) {
  Collector collector(name);
  describe(collector);
  if (!has_section(name)) sections_.push_back(name);
  for (DescribedOption& option : collector.options) {
    TRESTLE_ASSERT(!find(name, option.key), "{} is described once", option.name());
    option.inherits = inherits;
    if (!inherits.empty()) option.default_text = fmt::format("as {}.{}", inherits, option.key);
    // Behind the section's last option, so that a shared section stays in one piece.
    const auto last = std::find_if(options_.rbegin(), options_.rend(),
                                   [&](const auto& other) { return other.section == name; });
    options_.insert(last == options_.rend() ? options_.end() : last.base(), std::move(option));
  }
}

}  // namespace trestle::configs
