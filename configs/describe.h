// How an options struct shows its fields. The struct lives beside the code that reads it; this room
// knows no option by name.
//
//   struct OptimOptions {
//     double learning_rate = 1e-4;
//     void describe(configs::Fields& f) {
//       f.field("learning_rate", learning_rate, {.help = "peak learning rate", .unit = "1", .min =
//       0});
//     }
//   };
//
// One description serves everything: the schema (defaults, checks, reference page) and the loaders
// of recipes and JSON files are all visitors of it.
// LOCAL. THREADS: a visitor belongs to one thread.
#pragma once
#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace trestle::configs {

/// The key beside which an option counts, and the value that key must have: {"enabled", true} of
/// the same section, {"task.codec", "pixels"} of another.
struct Needs {
  std::string_view key = {};
  std::variant<bool, std::string_view> value = {};
};

/// What people and checks need to know of an option besides its name, type and default.
/// Bounds hold for each element of a list, and for an optional that has a value.
struct Meta {
  std::string_view help = {};
  std::string_view unit = {};
  std::optional<double> min = std::nullopt;    ///< value >= min
  std::optional<double> above = std::nullopt;  ///< value > above
  std::optional<double> max = std::nullopt;    ///< value <= max
  std::optional<double> below = std::nullopt;  ///< value < below
  /// Strings only; empty: any string. "true" and "false" may be said without quotes.
  std::vector<std::string_view> choices = {};
  /// Nothing reads the option otherwise, and a recipe that sets it then is refused.
  Needs needs = {};
  /// A run may go on with another value, since the option does not decide what is computed.
  bool may_change = false;
};

/// A described field, by reference. An optional without a value is "none" in TOML, null in JSON.
using FieldRef = std::variant<bool*, int64_t*, double*, std::string*, std::vector<int64_t>*,
                              std::vector<std::string>*, std::optional<double>*,
                              std::optional<int64_t>*, std::optional<std::string>*>;

template <class T>
concept FieldValue = std::same_as<T, bool> || std::same_as<T, int64_t> || std::same_as<T, double> ||
    std::same_as<T, std::string> || std::same_as<T, std::vector<int64_t>> ||
    std::same_as<T, std::vector<std::string>> || std::same_as<T, std::optional<double>> ||
    std::same_as<T, std::optional<int64_t>> || std::same_as<T, std::optional<std::string>>;

class Fields {
 public:
  virtual ~Fields() = default;

  template <FieldValue T>
  void field(std::string_view key, T& value, const Meta& meta) {
    visit(key, FieldRef(&value), meta);
  }

 private:
  virtual void visit(std::string_view key, FieldRef value, const Meta& meta) = 0;
};

enum class OptionKind { boolean, integer, number, string };
enum class Arity { one, optional, list };

/// Needs as owned values.
struct Condition {
  std::string key;  ///< with its section
  std::variant<bool, std::string> value;

  std::string value_text() const;  ///< as a recipe writes it
  std::string text() const;        ///< "ema.enabled = true"
};

/// One option with everything its description says, as owned values.
struct DescribedOption {
  std::string section;
  std::string key;
  OptionKind kind = OptionKind::string;
  Arity arity = Arity::one;
  std::string default_text;  ///< as a recipe writes it: 0.0001, "cosine", [1, 2], "none"
  std::string unit;
  std::string help;
  std::optional<double> min, above, max, below;
  std::vector<std::string> choices;
  std::optional<Condition> needs;
  bool may_change = false;
  std::string inherits;  ///< the section whose key of this name gives the value where none is said

  std::string name() const;     ///< "optim.learning_rate"; the key alone outside any section
  std::string type() const;     ///< "integer", "list of strings", "number or none"
  std::string range() const;    ///< ">= 0 and < 1", "constant" or "cosine"; empty: anything goes
  std::string allowed() const;  ///< for messages: an integer >= 1; a list of integers, each >= 1
};

/// The description of one field that holds its default.
DescribedOption described(std::string_view section, std::string_view key, const FieldRef& value,
                          const Meta& meta);

}  // namespace trestle::configs
