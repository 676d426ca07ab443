#include "configs/toml_text.h"

#include "base/error.h"

#include <toml++/toml.h>

#include <algorithm>

namespace trestle::configs {
namespace {

// Tables nest by dots, and the library takes them apart recursively: this many cannot exhaust a
// stack of 8 MB, and no honest recipe has them.
constexpr auto kMaxDots = 10'000;
constexpr int kMaxDepth = 8;

bool too_deep(std::string_view text) {
  return std::count(text.begin(), text.end(), '.') > kMaxDots;
}

Value value_of(const toml::node& node) {
  if (const auto* flag = node.as_boolean()) return {flag->get()};
  if (const auto* integer = node.as_integer()) return {integer->get()};
  if (const auto* number = node.as_floating_point()) return {number->get()};
  if (const auto* text = node.as_string()) return {text->get()};
  if (node.is_table()) return {Unwanted{"a table"}};
  if (const auto* array = node.as_array()) {  // no option takes lists of lists
    std::vector<Value> list;
    for (const toml::node& element : *array) {
      list.push_back(element.is_array() ? Value{Unwanted{"a list"}} : value_of(element));
    }
    return {std::move(list)};
  }
  return {Unwanted{"a date or time"}};
}

bool is_word(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

class Flattener {
 public:
  explicit Flattener(const std::string& name) : name_(name) {}

  TomlText flatten(const toml::table& root) {
    walk(root, "", 0);
    // The library sorts by name; people read their problems from top to bottom.
    const auto by_line = [](const auto& a, const auto& b) { return a.first < b.first; };
    std::stable_sort(entries_.begin(), entries_.end(), by_line);
    std::stable_sort(sections_.begin(), sections_.end(), by_line);
    for (auto& [line, entry] : entries_) text_.entries.push_back(std::move(entry));
    for (auto& [line, section] : sections_) text_.sections.push_back(std::move(section));
    return std::move(text_);
  }

 private:
  void walk(const toml::table& table, const std::string& section, int depth) {
    for (const auto& [key, node] : table) {
      const auto line = key.source().begin.line;
      const std::string source = fmt::format("{}:{}", name_, line);
      // A dot inside a quoted key would make two different keys look the same.
      TRESTLE_REQUIRE(is_word(key.str()),
                      "{}: key {} is not a plain word (letters, digits, _ and - make one). "
                      "Rename it.",
                      source, shortened(toml_string(key.str())));
      if (section.empty() && key.str() == "extends") {
        text_.extends = Entry{"", "extends", value_of(node), source, false};
      } else if (const auto* inner = node.as_table()) {
        const std::string name = (section.empty() ? "" : section + ".") + std::string(key.str());
        const bool only_opens_others =
            !inner->empty() && std::all_of(inner->begin(), inner->end(),
                                           [](const auto& item) { return item.second.is_table(); });
        if (!only_opens_others) sections_.push_back({line, {name, source}});
        TRESTLE_REQUIRE(depth < kMaxDepth,
                        "{}: section [{}] lies too deep (at most {} parts). Shorten its name.",
                        source, shortened(name), kMaxDepth);
        walk(*inner, name, depth + 1);
      } else {
        entries_.push_back(
            {line, {section, std::string(key.str()), value_of(node), source, false}});
      }
    }
  }

  std::string name_;
  TomlText text_;
  std::vector<std::pair<toml::source_index, Entry>> entries_;
  std::vector<std::pair<toml::source_index, SectionMention>> sections_;
};

// An inline table keeps the text honest: a comment, a second key or a new line cannot hide in it.
std::optional<Value> parse_value(std::string_view text) {
  if (too_deep(text)) return std::nullopt;
  try {
    const toml::table root = toml::parse(fmt::format("set = {{ value = {} }}", text));
    const toml::table* set = root["set"].as_table();
    if (root.size() != 1 || !set || set->size() != 1) return std::nullopt;
    return value_of(*set->get("value"));
  } catch (const toml::parse_error&) {
    return std::nullopt;
  }
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

TomlText parse_toml(std::string_view text, const std::string& name) {
  TRESTLE_REQUIRE(!too_deep(text),
                  "{}: more than {} dots (keys of so many parts exhaust the stack). Shorten it.",
                  name, kMaxDots);
  try {
    TomlText result = Flattener(name).flatten(toml::parse(text, name));
    if (result.extends && !std::holds_alternative<std::string>(result.extends->value.data)) {
      fail(ExitCode::usage,
           "{}: extends = {} is not a string (it names one recipe to build on). Write extends = "
           "\"base.toml\".",
           result.extends->source, shortened(to_toml(result.extends->value)));
    }
    return result;
  } catch (const toml::parse_error& error) {
    fail(ExitCode::usage, "{}:{}: this is not TOML ({}). Correct the line.", name,
         error.source().begin.line, error.description());
  }
}

Entry parse_set(std::string_view assignment) {
  // The quotes escape what would break the one line of a message.
  std::string shown = toml_string(assignment);
  shown = shortened(shown.substr(1, shown.size() - 2));
  const auto equals = assignment.find('=');
  TRESTLE_REQUIRE(equals != std::string_view::npos,
                  "--set {}: there is no \"=\" (it separates key and value). Write --set "
                  "section.key=value.",
                  shown);
  const std::string_view key = trimmed(assignment.substr(0, equals));
  const std::string_view text = trimmed(assignment.substr(equals + 1));
  const auto dot = key.rfind('.');
  Entry entry{.section = std::string(dot == std::string_view::npos ? "" : key.substr(0, dot)),
              .key = std::string(key.substr(dot == std::string_view::npos ? 0 : dot + 1)),
              .value = {},
              .source = "--set " + shown,
              .from_set = true};
  for (size_t start = 0; start <= key.size();) {
    const size_t end = std::min(key.find('.', start), key.size());
    TRESTLE_REQUIRE(is_word(key.substr(start, end - start)),
                    "{}: {} is no key (words joined by dots make one). Write --set "
                    "section.key=value.",
                    entry.source, shortened(toml_string(key)));
    start = end + 1;
  }
  TRESTLE_REQUIRE(key != "extends",
                  "{}: extends can only be said in a recipe (lines of errors "
                  "would have no file otherwise). Write a recipe that extends it.",
                  entry.source);
  std::optional<Value> value = parse_value(text);
  if (!value) value = parse_value(toml_string(text));
  TRESTLE_REQUIRE(
      value.has_value(),
      "{}: the value is not text (it is not UTF-8, or has more than {} dots). Correct it.",
      entry.source, kMaxDots);
  entry.value = std::move(*value);
  return entry;
}

}  // namespace trestle::configs
