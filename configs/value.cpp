#include "configs/value.h"

#include "configs/nearest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace trestle::configs {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

// The shortest text that reads back to the same bits; the point keeps it a float in TOML.
std::string float_text(double number) {
  std::string text = fmt::format("{}", number);
  if (text.find_first_of(".ein") == std::string::npos) text += ".0";
  return text;
}

std::string found_text(const Value& value) {
  return std::visit(Overloaded{[](std::monostate) -> std::string { return "no value"; },
                               [](bool) -> std::string { return "a boolean"; },
                               [](int64_t) -> std::string { return "an integer"; },
                               [](double) -> std::string { return "a float"; },
                               [](const std::string&) -> std::string { return "a string"; },
                               [](const std::vector<Value>&) -> std::string { return "a list"; },
                               [](const Unwanted& unwanted) { return unwanted.kind; }},
                    value.data);
}

struct Finding {
  std::string problem;  // "is a float"; empty: fine
  std::string advice;   // "Write 1000."
};

Finding out_of_range(const DescribedOption& option, double number) {
  const bool inside =
      (!option.min || number >= *option.min) && (!option.above || number > *option.above) &&
      (!option.max || number <= *option.max) && (!option.below || number < *option.below);
  return inside ? Finding{} : Finding{"is out of range", ""};
}

Finding check_number(const DescribedOption& option, Value& value) {
  if (const auto* integer = std::get_if<int64_t>(&value.data)) {
    value.data = static_cast<double>(*integer);
  }
  const auto* number = std::get_if<double>(&value.data);
  if (!number) return {"is " + found_text(value), ""};
  if (!std::isfinite(*number)) return {"is not finite", ""};
  return out_of_range(option, *number);
}

Finding check_integer(const DescribedOption& option, const Value& value) {
  if (const auto* integer = std::get_if<int64_t>(&value.data)) {
    return out_of_range(option, static_cast<double>(*integer));
  }
  const auto* number = std::get_if<double>(&value.data);
  const bool whole = number && std::trunc(*number) == *number && std::abs(*number) < 1e15;
  return {"is " + found_text(value),
          whole ? fmt::format("Write {}.", static_cast<int64_t>(*number)) : ""};
}

Finding check_string(const DescribedOption& option, Value& value) {
  // "auto", true or false: two of the choices are words that TOML and JSON have themselves.
  if (const auto* flag = std::get_if<bool>(&value.data)) {
    const std::string word = *flag ? "true" : "false";
    if (std::ranges::count(option.choices, word) > 0) value.data = word;
  }
  const auto* text = std::get_if<std::string>(&value.data);
  if (!text) {
    const bool scalar = std::holds_alternative<bool>(value.data) ||
                        std::holds_alternative<int64_t>(value.data) ||
                        std::holds_alternative<double>(value.data);
    return {"is " + found_text(value),
            scalar ? fmt::format("Write {}.", toml_string(to_toml(value))) : ""};
  }
  if (option.choices.empty()) return {};
  for (const std::string& choice : option.choices) {
    if (*text == choice) return {};
  }
  const std::string near = nearest(*text, option.choices);
  return {"is not one of the choices",
          near.empty() ? "" : "Did you mean " + toml_string(near) + "?"};
}

Finding check_one(const DescribedOption& option, Value& value) {
  switch (option.kind) {
    case OptionKind::boolean:
      if (std::holds_alternative<bool>(value.data)) return {};
      return {"is " + found_text(value), ""};
    case OptionKind::integer:
      return check_integer(option, value);
    case OptionKind::number:
      return check_number(option, value);
    case OptionKind::string:
      return check_string(option, value);
  }
  return {};
}

std::string shown(const Value& value, Dialect dialect) {
  if (std::holds_alternative<std::monostate>(value.data) && dialect == Dialect::json) return "null";
  return shortened(to_toml(value));
}

Finding check_list(const DescribedOption& option, Value& value, Dialect dialect) {
  auto* list = std::get_if<std::vector<Value>>(&value.data);
  if (!list) {
    const std::string found = "is " + found_text(value);
    const bool only_lacks_brackets = check_one(option, value).problem.empty();
    return {found, only_lacks_brackets ? fmt::format("Write [{}].", to_toml(value)) : ""};
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string text = shown((*list)[i], dialect);
    Finding element = check_one(option, (*list)[i]);
    if (!element.problem.empty()) {
      return {fmt::format("holds {} at place {}, which {}", text, i + 1, element.problem),
              element.advice};
    }
  }
  return {};
}

}  // namespace

std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\r':
        out += "\\r";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  return out + '"';
}

std::string shortened(std::string text) {
  constexpr size_t kMax = 80;
  if (text.size() <= kMax) return text;
  size_t end = kMax;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // UTF-8 tails
  return text.substr(0, end) + "...";
}

std::string to_toml(const Value& value) {
  return std::visit(Overloaded{[](std::monostate) -> std::string { return "\"none\""; },
                               [](bool flag) -> std::string { return flag ? "true" : "false"; },
                               [](int64_t integer) { return std::to_string(integer); },
                               [](double number) { return float_text(number); },
                               [](const std::string& text) { return toml_string(text); },
                               [](const std::vector<Value>& list) {
                                 std::string out = "[";
                                 for (size_t i = 0; i < list.size(); ++i) {
                                   if (i > 0) out += ", ";
                                   out += to_toml(list[i]);
                                 }
                                 return out + "]";
                               },
                               [](const Unwanted&) -> std::string { return "..."; }},
                    value.data);
}

Value to_value(const FieldRef& field) {
  return std::visit(Overloaded{[]<class T>(const std::optional<T>* value) {
                                 return *value ? Value{**value} : Value{};
                               },
                               []<class T>(const std::vector<T>* values) {
                                 std::vector<Value> list;
                                 for (const T& one : *values) list.emplace_back().data = one;
                                 return Value{std::move(list)};
                               },
                               [](const auto* value) { return Value{*value}; }},
                    field);
}

Checked checked(const DescribedOption& option, Value value, Dialect dialect) {
  if (option.arity == Arity::optional) {
    const auto* text = std::get_if<std::string>(&value.data);
    if (dialect == Dialect::toml && text && *text == "none") value = Value{};
    if (std::holds_alternative<std::monostate>(value.data)) return {Value{}, ""};
  }
  const std::string said = shown(value, dialect);
  const Finding finding =
      option.arity == Arity::list ? check_list(option, value, dialect) : check_one(option, value);
  if (finding.problem.empty()) return {std::move(value), ""};
  const char* none = option.arity != Arity::optional ? ""
                     : dialect == Dialect::toml      ? ", or \"none\""
                                                     : ", or null";
  return {Value{},
          fmt::format("{} = {} {} (wanted: {}{}).{}{}", option.name(), said, finding.problem,
                      option.allowed(), none, finding.advice.empty() ? "" : " ", finding.advice)};
}

void assign(const FieldRef& field, const Value& value) {
  std::visit(Overloaded{[&]<class T>(std::optional<T>* target) {
                          const T* one = std::get_if<T>(&value.data);
                          *target = one ? std::optional<T>(*one) : std::nullopt;
                        },
                        [&]<class T>(std::vector<T>* target) {
                          target->clear();
                          for (const Value& one : std::get<std::vector<Value>>(value.data)) {
                            target->push_back(std::get<T>(one.data));
                          }
                        },
                        [&]<class T>(T* target) { *target = std::get<T>(value.data); }},
             field);
}

}  // namespace trestle::configs
