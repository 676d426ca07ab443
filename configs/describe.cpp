#include "configs/describe.h"

#include "configs/value.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace trestle::configs {
namespace {

template <class T>
constexpr OptionKind kind_of() {
  if constexpr (std::same_as<T, bool>) return OptionKind::boolean;
  if constexpr (std::same_as<T, int64_t>) return OptionKind::integer;
  if constexpr (std::same_as<T, double>) return OptionKind::number;
  if constexpr (std::same_as<T, std::string>) return OptionKind::string;
}

struct Type {
  OptionKind kind;
  Arity arity;
};
template <class T>
Type type_of(const T*) {
  return {kind_of<T>(), Arity::one};
}
template <class T>
Type type_of(const std::optional<T>*) {
  return {kind_of<T>(), Arity::optional};
}
template <class T>
Type type_of(const std::vector<T>*) {
  return {kind_of<T>(), Arity::list};
}

std::string_view noun(OptionKind kind) {
  switch (kind) {
    case OptionKind::boolean:
      return "boolean";
    case OptionKind::integer:
      return "integer";
    case OptionKind::number:
      return "number";
    case OptionKind::string:
      return "string";
  }
  return "";
}

std::string bounds_text(const DescribedOption& option) {
  std::vector<std::string> parts;
  if (option.min) parts.push_back(fmt::format(">= {}", *option.min));
  if (option.above) parts.push_back(fmt::format("> {}", *option.above));
  if (option.max) parts.push_back(fmt::format("<= {}", *option.max));
  if (option.below) parts.push_back(fmt::format("< {}", *option.below));
  return fmt::format("{}", fmt::join(parts, " and "));
}

std::string choices_text(const DescribedOption& option) {
  std::string text;
  for (size_t i = 0; i < option.choices.size(); ++i) {
    if (i > 0) text += i + 1 == option.choices.size() ? " or " : ", ";
    text += toml_string(option.choices[i]);
  }
  return text;
}

std::optional<Condition> condition_of(std::string_view section, const Needs& needs) {
  if (needs.key.empty()) return std::nullopt;
  Condition condition{.key = std::string(needs.key), .value = {}};
  const bool same_section = needs.key.find('.') == needs.key.npos && !section.empty();
  if (same_section) condition.key = fmt::format("{}.{}", section, needs.key);
  if (const bool* flag = std::get_if<bool>(&needs.value)) {
    condition.value = *flag;
  } else {
    condition.value = std::string(std::get<std::string_view>(needs.value));
  }
  return condition;
}

}  // namespace

std::string Condition::value_text() const {
  return to_toml(std::visit([](const auto& v) { return Value{v}; }, value));
}

std::string Condition::text() const { return fmt::format("{} = {}", key, value_text()); }

std::string DescribedOption::name() const { return section.empty() ? key : section + "." + key; }

std::string DescribedOption::type() const {
  switch (arity) {
    case Arity::one:
      return std::string(noun(kind));
    case Arity::optional:
      return fmt::format("{} or none", noun(kind));
    case Arity::list:
      return fmt::format("list of {}s", noun(kind));
  }
  return "";
}

std::string DescribedOption::range() const {
  return choices.empty() ? bounds_text(*this) : choices_text(*this);
}

std::string DescribedOption::allowed() const {
  const std::string limits = range();
  if (arity == Arity::list) {
    return fmt::format("a {}{}{}", type(), limits.empty() ? "" : ", each ", limits);
  }
  if (kind == OptionKind::boolean) return "true or false";
  if (!choices.empty()) return limits;
  return fmt::format("{} {}{}{}", kind == OptionKind::integer ? "an" : "a", noun(kind),
                     limits.empty() ? "" : " ", limits);
}

DescribedOption described(std::string_view section, std::string_view key, const FieldRef& value,
                          const Meta& meta) {
  const Type type = std::visit([](auto* field) { return type_of(field); }, value);
  return {.section = std::string(section),
          .key = std::string(key),
          .kind = type.kind,
          .arity = type.arity,
          .default_text = to_toml(to_value(value)),
          .unit = std::string(meta.unit),
          .help = std::string(meta.help),
          .min = meta.min,
          .above = meta.above,
          .max = meta.max,
          .below = meta.below,
          .choices = {meta.choices.begin(), meta.choices.end()},
          .needs = condition_of(section, meta.needs),
          .may_change = meta.may_change};
}

}  // namespace trestle::configs
