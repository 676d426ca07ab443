// JSON from foreign hands, stricter than the parser: one object, no duplicate keys, no NUL bytes,
// bounded nesting. Heavy to include; for .cpp files only.
//
// LOCAL. THREADS: any.
#pragma once
#include <nlohmann/json.hpp>

#include <stdexcept>
#include <string>
#include <string_view>

namespace trestle::formats {

/// Why a text was refused. Whoever knows the file turns it into an Error that names it.
class JsonProblem : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The one object that `text` is, or a JsonProblem.
nlohmann::json parse_json_object(std::string_view text, std::size_t max_depth);

/// A foreign string for a message: quoted, control characters escaped, shortened.
std::string shown(std::string_view text);

}  // namespace trestle::formats
