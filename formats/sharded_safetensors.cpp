#include "formats/sharded_safetensors.h"

#include "base/error.h"
#include "base/files.h"
#include "base/problem_list.h"
#include "formats/strict_json.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <regex>
#include <set>
#include <system_error>
#include <utility>

namespace trestle::formats {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::array<std::string_view, 2> kStems = {"diffusion_pytorch_model", "model"};
constexpr std::array<std::string_view, 2> kTorchFiles = {"diffusion_pytorch_model.bin",
                                                         "pytorch_model.bin"};
constexpr std::uint64_t kMaxIndexBytes = 64 << 20;
constexpr std::size_t kIndexDepth = 8;  // its metadata may hold what it likes
constexpr std::size_t kMaxShown = 20;   // files

std::string with_variant(std::string_view variant) {
  return variant.empty() ? std::string() : fmt::format(".{}", variant);
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

/// The file names of a folder that may be its weights.
std::vector<std::string> present(const fs::path& folder, std::string_view variant) {
  std::vector<std::string> found;
  const std::string middle = with_variant(variant);
  for (const std::string_view stem : kStems) {
    for (std::string name : {fmt::format("{}{}.safetensors", stem, middle),
                             fmt::format("{}.safetensors.index{}.json", stem, middle)}) {
      if (is_there(folder / name)) found.push_back(std::move(name));
    }
  }
  return found;
}

/// What a folder without the wanted files has instead, as advice.
std::string advice(const fs::path& folder) {
  for (const std::string_view name : kTorchFiles) {
    if (is_there(folder / name)) return fmt::format("It has {}: name that file.", name);
  }
  std::vector<std::string> others;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && others.size() < kMaxShown) others.push_back(name);
  }
  std::ranges::sort(others);
  if (others.empty()) return "Name the folder of one model, such as transformer.";
  return fmt::format("It has {}: name the file or its variant.", fmt::join(others, ", "));
}

fs::path find_in_folder(const fs::path& folder, std::string_view variant) {
  const std::vector<std::string> found = present(folder, variant);
  if (found.size() == 1) return folder / found.front();
  const std::string middle = with_variant(variant);
  TRESTLE_REQUIRE_AS(data, found.empty(),
                     "{} holds {} (which of them is the model cannot be told). Name the file, or "
                     "remove the one that is not used.",
                     folder.string(), fmt::join(found, " and "));
  fail(ExitCode::data,
       "{} has no weights (diffusion_pytorch_model{}.safetensors or model{}.safetensors, or the "
       "index of either, is looked for). {}",
       folder.string(), middle, middle, advice(folder));
}

bool is_index(const fs::path& path) {
  const std::string name = path.filename().string();
  return name.ends_with(".json") && name.find(".safetensors.index.") != name.npos;
}

/// A shard lies beside its index: no path leads elsewhere.
bool is_plain_name(std::string_view name) {
  return name.ends_with(".safetensors") && !name.starts_with('.') &&
         std::ranges::none_of(name, [](char c) {
           return c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
         });
}

std::int64_t read_total(const json& metadata) {
  if (!metadata.is_object()) throw JsonProblem("its metadata is not an object");
  if (!metadata.contains("total_size")) return -1;
  // Some writers make it a float.
  const json& total = metadata["total_size"];
  constexpr double kExact = 9007199254740992.0;  // 2^53
  const double value = total.is_number() ? total.get<double>() : -1;
  if (value < 0 || value > kExact || std::floor(value) != value) {
    throw JsonProblem("its total_size is not a count of bytes");
  }
  return static_cast<std::int64_t>(value);
}

void raise(const ProblemList& problems, const fs::path& index) {
  if (problems.count() == 0) return;
  fail(ExitCode::data,
       "{} and its shards do not agree ({} problems). Download or export them again:{}",
       index.string(), problems.count(), problems.lines());
}

/// Opens the shards that are there.
std::vector<SafetensorsFile> open_shards(const fs::path& folder, const ShardIndex& index,
                                         ProblemList& problems) {
  std::set<std::string> names;
  for (const auto& [tensor, file] : index.file_of) names.insert(file);
  std::vector<SafetensorsFile> shards;
  for (const std::string& name : names) {
    if (is_there(folder / name)) {
      shards.push_back(SafetensorsFile::open(folder / name));
    } else {
      problems.add([&] { return fmt::format("the shard {} is missing", name); });
    }
  }
  return shards;
}

/// Every tensor is in the one shard that the index says, and no other tensor is in any.
void compare(const ShardIndex& index, const std::vector<SafetensorsFile>& shards,
             ProblemList& problems) {
  std::map<std::string_view, std::string> holder;
  std::uint64_t bytes = 0;
  for (const SafetensorsFile& shard : shards) {
    const std::string file = shard.path().filename().string();
    for (const TensorEntry& entry : shard.entries()) {
      bytes += entry.size_bytes();
      const auto listed = index.file_of.find(entry.name);
      const auto held = holder.emplace(entry.name, file);
      if (!held.second) {
        problems.add([&] {
          return fmt::format("the tensor {} is in {} and in {}", shown(entry.name),
                             held.first->second, file);
        });
      } else if (listed == index.file_of.end()) {
        problems.add([&] {
          return fmt::format("the tensor {} is in {}, but not in the index", shown(entry.name),
                             file);
        });
      } else if (listed->second != file) {
        problems.add([&] {
          return fmt::format("the tensor {} is in {}; the index says {}", shown(entry.name), file,
                             listed->second);
        });
      }
    }
  }
  for (const auto& listed : index.file_of) {
    if (holder.contains(listed.first)) continue;
    problems.add(
        [&] { return fmt::format("{} has no tensor {}", listed.second, shown(listed.first)); });
  }
  if (index.total_bytes >= 0 && static_cast<std::uint64_t>(index.total_bytes) != bytes) {
    problems.add([&] {
      return fmt::format("total_size is {}, but the tensors take {} bytes", index.total_bytes,
                         bytes);
    });
  }
}

/// Tensors in their order, as many to a shard as it takes.
std::vector<std::vector<TensorToWrite>> divide(std::span<const TensorToWrite> tensors,
                                               std::uint64_t max_shard_bytes) {
  std::vector<std::vector<TensorToWrite>> shards;
  std::vector<TensorToWrite> open;
  std::uint64_t open_bytes = 0;
  for (const TensorToWrite& tensor : tensors) {
    const std::uint64_t bytes = tensor.bytes.size();
    if (bytes > max_shard_bytes) {
      shards.push_back({tensor});
      continue;
    }
    if (open_bytes + bytes > max_shard_bytes) {
      shards.push_back(std::exchange(open, {}));
      open_bytes = 0;
    }
    open.push_back(tensor);
    open_bytes += bytes;
  }
  if (!open.empty() || shards.empty()) shards.push_back(std::move(open));
  return shards;
}

void remove_file(const fs::path& path) {
  std::error_code error;
  fs::remove(path, error);
  TRESTLE_REQUIRE_AS(environment, !error,
                     "{} of an earlier writing could not be removed ({}). Remove it.",
                     path.string(), error.message());
}

/// Files of this stem that an earlier writing left.
void remove_others(const fs::path& folder, const std::string& stem,
                   const std::set<std::string>& written) {
  const std::regex tail(R"((-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?)");
  std::vector<fs::path> left;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(stem) && std::regex_match(name.substr(stem.size()), tail) &&
        !written.contains(name)) {
      left.push_back(entry.path());
    }
  }
  for (const fs::path& path : left) remove_file(path);
}

}  // namespace

ShardIndex parse_shard_index(std::string_view text, std::string_view name_for_errors) {
  try {
    const json object = parse_json_object(text, kIndexDepth);
    ShardIndex index;
    for (const auto& [key, value] : object.items()) {
      if (key == "metadata") {
        index.total_bytes = read_total(value);
      } else if (key != "weight_map") {
        throw JsonProblem(fmt::format("it has a key {}", shown(key)));
      }
    }
    const auto map = object.find("weight_map");
    if (map == object.end() || !map->is_object() || map->empty()) {
      throw JsonProblem("it has no weight_map of tensors to files");
    }
    for (const auto& [tensor, file] : map->items()) {
      if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>())) {
        throw JsonProblem(
            fmt::format("the tensor {} is in {}, which is no safetensors file beside "
                        "the index",
                        shown(tensor), shown(file.dump())));
      }
      index.file_of.emplace(tensor, file.get<std::string>());
    }
    return index;
  } catch (const JsonProblem& problem) {
    fail(ExitCode::data, "{} is no index of safetensors files ({}). Download or export it again.",
         name_for_errors, problem.what());
  }
}

ShardedSafetensors ShardedSafetensors::open(const fs::path& path, std::string_view variant) {
  ShardedSafetensors result;
  std::error_code ignored;
  result.path_ = fs::is_directory(path, ignored) ? find_in_folder(path, variant) : path;
  if (!is_index(result.path_)) {
    result.shards_.push_back(SafetensorsFile::open(result.path_));
    return result;
  }
  const ShardIndex index = parse_shard_index(
      read_text_file(result.path_, kMaxIndexBytes, ExitCode::data), result.path_.string());
  ProblemList problems;
  result.shards_ = open_shards(result.path_.parent_path(), index, problems);
  raise(problems, result.path_);  // what a missing shard lacks need not be listed
  compare(index, result.shards_, problems);
  raise(problems, result.path_);
  return result;
}

void write_sharded_safetensors(const fs::path& folder, const std::string& stem,
                               std::span<const TensorToWrite> tensors,
                               std::uint64_t max_shard_bytes,
                               const std::map<std::string, std::string>& metadata) {
  const auto shards = divide(tensors, max_shard_bytes);
  const std::string index_file = fmt::format("{}.safetensors.index.json", stem);
  remove_file(folder / index_file);  // or a crash would leave one over shards old and new
  std::set<std::string> written;
  json map = json::object();  // sorted by name, as the Python libraries write it
  std::uint64_t total_bytes = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string file = shards.size() == 1 ? fmt::format("{}.safetensors", stem)
                                                : fmt::format("{}-{:05}-of-{:05}.safetensors", stem,
                                                              i + 1, shards.size());
    write_safetensors(folder / file, shards[i], metadata);
    written.insert(file);
    for (const TensorToWrite& tensor : shards[i]) {
      map[tensor.name] = file;
      total_bytes += tensor.bytes.size();
    }
  }
  if (shards.size() > 1) {
    const json index = {{"metadata", {{"total_size", total_bytes}}}, {"weight_map", map}};
    write_file_atomic(folder / index_file, index.dump(2, ' ', true) + "\n", ExitCode::environment);
    written.insert(index_file);
  }
  remove_others(folder, stem, written);
}

}  // namespace trestle::formats
