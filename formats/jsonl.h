// JSON lines: one object a line, read with the line's place at hand, or appended.
//
// Read is strict: a line that is not one whole JSON object, or that has a key twice, is an Error
// with ExitCode::data that names file:line. Lines of nothing but blanks are skipped.
//
// LOCAL. THREADS: reading any; one thread a writer.
//   for_each_json_line("cats/pairs.jsonl", [&](const JsonLine& line) {
//     pairs.push_back({required_string(line, "source"), required_string(line, "target")});
//   });
//   JsonlWriter metrics("runs/cats/metrics.jsonl");
//   metrics.append({{"step", 12}, {"loss", 0.25}});
#pragma once
#include "formats/append_file.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace trestle::formats {

/// One line while it is being visited. The parsed object is behind a pointer because the JSON
/// library is slow to compile.
class JsonLine {
 public:
  struct Object;
  JsonLine(std::string_view file, std::int64_t number, const Object& object)
      : file_(file), number_(number), object_(object) {}

  /// "file:line", for messages of the caller's own.
  std::string place() const;
  std::int64_t number() const { return number_; }  ///< from 1
  const Object& object() const { return object_; }

 private:
  std::string_view file_;
  std::int64_t number_;
  const Object& object_;
};

/// Visits the lines in order. What `visit` throws ends it.
void for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const JsonLine&)>& visit);

/// The string under this key; an Error (data) with file:line where there is none.
std::string required_string(const JsonLine& line, std::string_view key);

/// A key and its value, as JsonlWriter writes them. A double that is not finite becomes null.
struct JsonField {
  std::string_view key;
  std::variant<bool, std::int64_t, double, std::string_view> value;
};

/// Appends to a file, one write to the system a line, so another program that follows the file sees
/// whole lines. Errors: ExitCode::environment; the file then still ends in a whole line.
class JsonlWriter {
 public:
  /// Opens the file, or makes it. What a killed program left of an unfinished last line is cut off
  /// (and logged).
  explicit JsonlWriter(const std::filesystem::path& path);

  /// One line with the fields in this order.
  void append(std::span<const JsonField> fields);
  void append(std::initializer_list<JsonField> fields) {
    append(std::span(fields.begin(), fields.size()));
  }

 private:
  AppendFile file_;
};

}  // namespace trestle::formats
