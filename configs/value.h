// Values as a recipe or a JSON file says them, before it is known which type was wanted, and the
// one check that turns them into what an option takes. Used inside this room.
// LOCAL. THREADS: plain values.
#pragma once
#include "configs/describe.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace trestle::configs {

/// How "no value" is spelt: TOML has no null, so recipes write the string "none".
enum class Dialect { toml, json };

/// Legal TOML or JSON that no option takes ("a table", "a date or time").
struct Unwanted {
  std::string kind;
};

struct Value {
  std::variant<std::monostate, bool, int64_t, double, std::string, std::vector<Value>, Unwanted>
      data;  ///< monostate: no value
};

/// Exact: reading the text back gives the same bits. "No value" becomes "none" in quotes.
std::string to_toml(const Value& value);

/// A TOML basic string with its quotes; control characters are escaped, so it is always one line.
std::string toml_string(std::string_view text);

/// For messages: at most about 80 bytes, cut between characters.
std::string shortened(std::string text);

Value to_value(const FieldRef& field);

/// The value as the option holds it (an integer becomes a number where one is wanted), or a
/// sentence without its source: `train.steps = 1.5 is a float (wanted: an integer >= 1).`
struct Checked {
  Value value;
  std::string problem;  ///< empty: fine
};
Checked checked(const DescribedOption& option, Value value, Dialect dialect);

/// Writes a checked value into a field of the type it was checked for.
void assign(const FieldRef& field, const Value& value);

}  // namespace trestle::configs
