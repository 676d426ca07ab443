#include "formats/jsonl.h"

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "formats/strict_json.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>
#include <unistd.h>

namespace trestle::formats {

struct JsonLine::Object {
  nlohmann::json json;
};

namespace {

constexpr std::size_t kMaxDepth = 64;
constexpr const char* kBlanks = " \t\r\v\f";

/// How many bytes at the file's end follow its last line break.
std::uint64_t unfinished_bytes(const FileReader& file) {
  std::array<std::byte, 4096> block{};
  std::uint64_t end = file.size_bytes();
  while (end > 0) {
    const std::uint64_t size = std::min<std::uint64_t>(block.size(), end);
    file.read_exact(end - size, std::span(block).first(size));
    for (std::uint64_t i = size; i > 0; --i) {
      if (block[i - 1] == std::byte{'\n'}) return file.size_bytes() - (end - size + i);
    }
    end -= size;
  }
  return file.size_bytes();
}

/// The path of a file that now ends in a whole line, or is not there.
const std::filesystem::path& cut_unfinished_line(const std::filesystem::path& path) {
  std::error_code ignored;  // opening it says more
  if (!std::filesystem::exists(path, ignored)) return path;
  const FileReader file(path, ExitCode::environment);
  const std::uint64_t unfinished = unfinished_bytes(file);
  if (unfinished == 0) return path;
  TRESTLE_REQUIRE_AS(
      environment,
      ::truncate(path.c_str(), static_cast<off_t>(file.size_bytes() - unfinished)) == 0,
      "{} ends in an unfinished line that could not be cut off ({}). Check its rights.",
      path.string(), std::generic_category().message(errno));
  log_warn("{} ended in an unfinished line (its writer was stopped). {} bytes were cut off.",
           path.string(), unfinished);
  return path;
}

}  // namespace

std::string JsonLine::place() const { return fmt::format("{}:{}", file_, number_); }

void for_each_json_line(const std::filesystem::path& path,
                        const std::function<void(const JsonLine&)>& visit) {
  const FileReader check(path, ExitCode::data);  // a folder or a missing file ends here
  const std::string name = path.string();
  std::ifstream file(path, std::ios::binary);
  std::string text;
  for (std::int64_t number = 1; std::getline(file, text); ++number) {
    if (text.find_first_not_of(kBlanks) == text.npos) continue;
    JsonLine::Object object;
    try {
      object.json = parse_json_object(text, kMaxDepth);
    } catch (const JsonProblem& problem) {
      fail(ExitCode::data,
           "{}:{} is not a JSON object ({}). Each line must be one whole object such as "
           "{{\"key\": \"value\"}}.",
           name, number, problem.what());
    }
    visit(JsonLine(name, number, object));
  }
  TRESTLE_REQUIRE_AS(data, file.eof(), "{} cannot be read to its end ({}). Check the disk.", name,
                     std::generic_category().message(errno));
}

std::string required_string(const JsonLine& line, std::string_view key) {
  const nlohmann::json& object = line.object().json;
  const auto found = object.find(key);
  TRESTLE_REQUIRE_AS(data, found != object.end(),
                     "{} has no \"{}\" (every line of this file needs one). Add \"{}\": \"...\".",
                     line.place(), key, key);
  TRESTLE_REQUIRE_AS(data, found->is_string(),
                     "{} has a {} for \"{}\" (it must be a string). Write \"{}\": \"...\".",
                     line.place(), found->type_name(), key, key);
  return found->get<std::string>();
}

JsonlWriter::JsonlWriter(const std::filesystem::path& path) : file_(cut_unfinished_line(path)) {}

void JsonlWriter::append(std::span<const JsonField> fields) {
  nlohmann::ordered_json object = nlohmann::ordered_json::object();
  for (const JsonField& field : fields) {
    std::visit([&](const auto& value) { object[std::string(field.key)] = value; }, field.value);
  }
  // Text from outside (a file name, say) need not be UTF-8, and that must not cost the line.
  file_.append(object.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
               '\n');
}

}  // namespace trestle::formats
