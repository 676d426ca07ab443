#include "checkpoint/manifest.h"

#include "base/digest.h"
#include "base/error.h"
#include "base/files.h"
#include "checkpoint/damage.h"
#include "formats/hdf5.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <utility>

namespace trestle::checkpoint {
namespace {

using nlohmann::json;

constexpr std::string_view kFormat = "trestle-checkpoint";
constexpr std::uint64_t kFormatVersion = 1;
constexpr std::uint64_t kManifestLimitBytes = std::uint64_t{256} << 20;
constexpr int kDepthLimit = 16;  // version 1 needs 5; deeper text would recurse in the JSON writer
constexpr auto kMaxInt64 = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

/// What is wrong with a manifest, without its name; parse_manifest() adds that.
struct Malformed {
  std::string problem;
};

/// A whole manifest of another version of the format.
struct Unsupported {
  std::uint64_t version;
};

template <class... Args>
[[noreturn]] void malformed(fmt::format_string<Args...> format, Args&&... args) {
  throw Malformed{fmt::format(format, std::forward<Args>(args)...)};
}

[[noreturn]] void fail_damaged(const std::string& origin, std::uint64_t bytes,
                               const std::string& problem) {
  throw DamageError(fmt::format("{} is damaged ({}). Use another checkpoint.", origin, problem),
                    {std::string(kManifestName), 0, bytes, problem});
}

/// A foreign text for a message: quoted, control characters escaped.
std::string shown(const std::string& text) { return json(text).dump(); }

// Strict access: nlohmann-json would quietly convert -1 to 2^64 - 1, or 1.5 to 1.

const json& member(const json& object, const char* key) {
  if (!object.is_object()) malformed("an object with \"{}\" is expected", key);
  const auto found = object.find(key);
  if (found == object.end()) malformed("field \"{}\" is missing", key);
  return *found;
}

std::uint64_t unsigned_number(const json& value, std::string_view what) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMaxInt64)
    malformed("\"{}\" is not a number from 0 to 2^63 - 1", what);
  return value.get<std::uint64_t>();
}

const std::string& text(const json& value, std::string_view what) {
  if (!value.is_string()) malformed("\"{}\" is not a text", what);
  return value.get_ref<const std::string&>();
}

const json::array_t& list(const json& value, std::string_view what) {
  if (!value.is_array()) malformed("\"{}\" is not a list", what);
  return value.get_ref<const json::array_t&>();
}

const json::object_t& object(const json& value, std::string_view what) {
  if (!value.is_object()) malformed("\"{}\" is not an object", what);
  return value.get_ref<const json::object_t&>();
}

std::uint64_t unsigned_at(const json& parent, const char* key) {
  return unsigned_number(member(parent, key), key);
}
const std::string& text_at(const json& parent, const char* key) {
  return text(member(parent, key), key);
}

std::uint64_t parse_hex64(const std::string& digits) {
  std::uint64_t value = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, value, 16);
  if (digits.size() != 16 || error != std::errc() || stop != end)
    malformed("{} is not a block digest", shown(digits));
  return value;
}

json value_to_json(const Value& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return {{"int64", *number}};
  if (const auto* number = std::get_if<double>(&value)) {
    if (std::isnan(*number)) return {{"float64", "nan"}};
    return {{"float64", fmt::format("{}", *number)}};  // the shortest text that reads back equal
  }
  return {{"text", std::get<std::string>(value)}};
}

Value value_from_json(const json& stored, const std::string& name) {
  if (object(stored, name).size() != 1) malformed("value {} has not exactly one type", shown(name));
  if (stored.contains("int64")) {
    const json& number = stored["int64"];
    if (!number.is_number_integer() ||
        (number.is_number_unsigned() && number.get<std::uint64_t>() > kMaxInt64))
      malformed("value {} is not an int64", shown(name));
    return number.get<std::int64_t>();
  }
  if (stored.contains("text")) return text_at(stored, "text");
  const std::string& digits = text_at(stored, "float64");
  double number = 0;
  const char* end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, number);
  if (error != std::errc() || stop != end) malformed("value {} is not a float64", shown(name));
  return number;
}

json file_to_json(const FileRecord& file) {
  json digests = json::array();
  for (const std::uint64_t digest : file.block_digests)
    digests.push_back(fmt::format("{:016x}", digest));
  return {{"name", file.name},
          {"bytes", file.bytes},
          {"block_bytes", kBlockBytes},
          {"xxh3_64", std::move(digests)}};
}

FileRecord file_from_json(const json& stored) {
  FileRecord file;
  file.name = text_at(stored, "name");
  if (file.name.empty() || file.name[0] == '.' || file.name.find('/') != std::string::npos ||
      file.name.find('\0') != std::string::npos || file.name == kManifestName)
    malformed("{} is not the name of a file of a checkpoint", shown(file.name));
  file.bytes = unsigned_at(stored, "bytes");
  if (unsigned_at(stored, "block_bytes") != kBlockBytes)
    malformed("{}: block_bytes is not {}", file.name, kBlockBytes);
  for (const json& digest : list(member(stored, "xxh3_64"), "xxh3_64"))
    file.block_digests.push_back(parse_hex64(text(digest, "xxh3_64")));
  if (file.block_digests.size() != file.bytes / kBlockBytes + (file.bytes % kBlockBytes != 0))
    malformed("{}: {} block digests for {} bytes", file.name, file.block_digests.size(),
              file.bytes);
  return file;
}

json tensor_to_json(const TensorRecord& tensor, const std::vector<FileRecord>& files) {
  json pieces = json::array();
  for (const PieceRecord& piece : tensor.pieces)
    pieces.push_back({{"file", files.at(piece.file).name},
                      {"dataset", piece.dataset},
                      {"offset", piece.offset},
                      {"bytes", piece.bytes},
                      {"begin", piece.begin},
                      {"end", piece.end}});
  return {{"shape", tensor.shape},
          {"dtype", formats::element_name(tensor.dtype)},
          {"pieces", std::move(pieces)}};
}

using FileIndex = std::map<std::string, std::size_t, std::less<>>;

PieceRecord piece_from_json(const json& stored, const TensorRecord& tensor,
                            const std::vector<FileRecord>& files, const FileIndex& index) {
  PieceRecord piece;
  const std::string& name = text_at(stored, "file");
  const auto found = index.find(name);
  if (found == index.end()) malformed("a piece lies in {}, which is not listed", shown(name));
  piece.file = found->second;
  piece.dataset = text_at(stored, "dataset");
  piece.offset = unsigned_at(stored, "offset");
  piece.bytes = unsigned_at(stored, "bytes");
  piece.begin = unsigned_at(stored, "begin");
  piece.end = unsigned_at(stored, "end");
  if (piece.begin > piece.end || piece.end > tensor.elements())
    malformed("elements [{}, {}) do not exist", piece.begin, piece.end);
  if (piece.bytes != (piece.end - piece.begin) * formats::element_bytes(tensor.dtype))
    malformed("elements [{}, {}) do not have {} bytes", piece.begin, piece.end, piece.bytes);
  const std::uint64_t file_bytes = files[piece.file].bytes;
  if (piece.offset > file_bytes || piece.bytes > file_bytes - piece.offset)
    malformed("{} bytes at offset {} end beyond {} ({} bytes)", piece.bytes, piece.offset, name,
              file_bytes);
  return piece;
}

TensorRecord tensor_from_json(const json& stored, const std::vector<FileRecord>& files,
                              const FileIndex& index) {
  TensorRecord tensor;
  const auto dtype = formats::element_type_named(text_at(stored, "dtype"));
  if (!dtype || !formats::h5_holds(*dtype))
    malformed("dtype {} is not one that checkpoints hold", shown(text_at(stored, "dtype")));
  tensor.dtype = *dtype;
  std::uint64_t bytes = formats::element_bytes(tensor.dtype);
  for (const json& extent : list(member(stored, "shape"), "shape")) {
    const std::uint64_t size = unsigned_number(extent, "shape");
    // A 0 is left out, so that no order of extents lets a product overflow before it.
    if (size != 0 && (__builtin_mul_overflow(bytes, size, &bytes) || bytes > kMaxInt64))
      malformed("the shape is too large");
    tensor.shape.push_back(static_cast<std::int64_t>(size));
  }
  for (const json& piece : list(member(stored, "pieces"), "pieces"))
    tensor.pieces.push_back(piece_from_json(piece, tensor, files, index));
  return tensor;
}

TopologyRecord topology_from_json(const json& stored, int world) {
  TopologyRecord topology;
  const std::uint64_t levels = unsigned_at(stored, "levels");
  if (levels != 1 && levels != 2) malformed("\"levels\" is {}", levels);
  topology.levels = static_cast<int>(levels);
  std::uint64_t hosts = 0;
  for (const json& number : list(member(stored, "host_of_rank"), "host_of_rank")) {
    const std::uint64_t host = unsigned_number(number, "host_of_rank");
    if (host > hosts) malformed("\"host_of_rank\" names host {} before host {}", host, hosts);
    hosts = std::max(hosts, host + 1);
    topology.host_of_rank.push_back(static_cast<int>(host));
  }
  if (topology.host_of_rank.size() != static_cast<std::size_t>(world))
    malformed("\"host_of_rank\" has {} of {} ranks", topology.host_of_rank.size(), world);
  return topology;
}

json to_json(const Manifest& manifest) {
  json values = json::object(), files = json::array(), tensors = json::object();
  for (const auto& [name, value] : manifest.values) values[name] = value_to_json(value);
  for (const FileRecord& file : manifest.files) files.push_back(file_to_json(file));
  for (const auto& [name, tensor] : manifest.tensors)
    tensors[name] = tensor_to_json(tensor, manifest.files);
  json stored = {{"format", kFormat},
                 {"format_version", kFormatVersion},
                 {"step", manifest.step},
                 {"world", manifest.world},
                 {"recipe", {{"hash", manifest.recipe_hash}, {"toml", manifest.recipe_toml}}},
                 {"versions", manifest.versions},
                 {"values", std::move(values)},
                 {"files", std::move(files)},
                 {"tensors", std::move(tensors)}};
  if (manifest.topology) {
    stored["topology"] = {{"host_of_rank", manifest.topology->host_of_rank},
                          {"levels", manifest.topology->levels}};
  }
  if (manifest.epoch != 0) stored["epoch"] = manifest.epoch;
  return stored;
}

Manifest from_json(const json& stored) {
  Manifest manifest;
  manifest.step = static_cast<std::int64_t>(unsigned_at(stored, "step"));
  const std::uint64_t world = unsigned_at(stored, "world");
  if (world == 0 || world > (1u << 24)) malformed("\"world\" is {}", world);
  manifest.world = static_cast<int>(world);
  if (const auto found = stored.find("topology"); found != stored.end())
    manifest.topology = topology_from_json(*found, manifest.world);
  if (stored.contains("epoch"))
    manifest.epoch = static_cast<std::int64_t>(unsigned_at(stored, "epoch"));
  manifest.recipe_hash = text_at(member(stored, "recipe"), "hash");
  manifest.recipe_toml = text_at(member(stored, "recipe"), "toml");
  for (const auto& [name, version] : object(member(stored, "versions"), "versions"))
    manifest.versions[name] = text(version, name);
  for (const auto& [name, value] : object(member(stored, "values"), "values"))
    manifest.values[name] = value_from_json(value, name);

  FileIndex index;
  for (const json& file : list(member(stored, "files"), "files")) {
    manifest.files.push_back(file_from_json(file));
    const std::string& name = manifest.files.back().name;
    if (!index.emplace(name, index.size()).second) malformed("{} is listed twice", name);
  }
  for (const auto& [name, tensor] : object(member(stored, "tensors"), "tensors")) {
    try {
      manifest.tensors[name] = tensor_from_json(tensor, manifest.files, index);
    } catch (const Malformed& inner) {
      malformed("tensor {}: {}", shown(name), inner.problem);
    }
  }
  return manifest;
}

/// The file's text, from JSON that has its digest.
std::string file_text(const json& stored) { return stored.dump(1) + "\n"; }

Manifest parse(std::string_view manifest_text) {
  const auto refuse_depth = [](int depth, json::parse_event_t, json&) {
    if (depth > kDepthLimit) malformed("it is nested more than {} deep", kDepthLimit);
    return true;
  };
  json stored;
  try {
    stored = json::parse(manifest_text, refuse_depth);
  } catch (const json::exception& error) {
    malformed("not JSON: {}", error.what());
  }
  if (text_at(stored, "format") != kFormat) malformed("\"format\" is not {}", kFormat);
  // Before the version: a later one that is whole is no damage, and keeps this rule.
  const std::string digest = text_at(stored, "digest");
  const bool same_text = file_text(stored) == manifest_text;
  stored.erase("digest");
  if (digest != digest_128(stored.dump()) || !same_text)
    malformed("its text does not have its digest: it was edited or a bit flipped");
  if (const auto version = unsigned_at(stored, "format_version"); version != kFormatVersion)
    throw Unsupported{version};
  return from_json(stored);
}

}  // namespace

std::uint64_t FileRecord::block_end(std::size_t block) const {
  return std::min(bytes, block_begin(block) + kBlockBytes);
}

std::uint64_t TensorRecord::elements() const {
  std::uint64_t count = 1;
  for (const std::int64_t extent : shape) count *= static_cast<std::uint64_t>(extent);
  return count;
}

std::string to_text(const Manifest& manifest) {
  json stored = to_json(manifest);
  try {
    stored["digest"] = digest_128(stored.dump());
  } catch (const json::exception& error) {
    fail(ExitCode::checkpoint, "A text of the training state is not UTF-8 ({}). Correct it.",
         error.what());
  }
  return file_text(stored);
}

Manifest parse_manifest(std::string_view manifest_text, const std::string& origin) {
  try {
    return parse(manifest_text);
  } catch (const Malformed& error) {
    fail_damaged(origin, manifest_text.size(), error.problem);
  } catch (const Unsupported& other) {
    fail(ExitCode::checkpoint,
         "{} has format_version {}, and this program reads {}. Use a Trestle that knows it, or "
         "another checkpoint.",
         origin, other.version, kFormatVersion);
  }
}

void require_whole(Manifest& manifest, const std::string& origin) {
  for (auto& [name, tensor] : manifest.tensors) {
    std::ranges::sort(tensor.pieces, {}, &PieceRecord::begin);
    const std::uint64_t elements = tensor.elements();
    std::uint64_t covered = 0;
    for (const PieceRecord& piece : tensor.pieces) {
      if (piece.begin != covered || (piece.begin == piece.end && elements != 0))
        fail_damaged(origin, 0,
                     fmt::format("tensor {}: the pieces {} at element {}, in {}", name,
                                 piece.begin > covered ? "leave a gap" : "overlap", covered,
                                 manifest.files[piece.file].name));
      covered = piece.end;
    }
    if (covered != elements || tensor.pieces.empty())
      fail_damaged(
          origin, 0,
          fmt::format("tensor {}: the pieces end at element {} of {}", name, covered, elements));
  }
}

Manifest merge(std::vector<Manifest> of_ranks) {
  Manifest whole = std::move(of_ranks.at(0));
  for (std::size_t rank = 1; rank < of_ranks.size(); ++rank) {
    const std::size_t first_file = whole.files.size();
    std::ranges::move(of_ranks[rank].files, std::back_inserter(whole.files));
    whole.values.merge(of_ranks[rank].values);  // those it has, it keeps
    for (auto& [name, tensor] : of_ranks[rank].tensors) {
      TensorRecord& into =
          whole.tensors.try_emplace(name, TensorRecord{tensor.shape, tensor.dtype, {}})
              .first->second;
      if (into.shape != tensor.shape || into.dtype != tensor.dtype)
        fail(ExitCode::checkpoint,
             "tensor {} has another shape or dtype on rank {} than on lower ranks. Please report "
             "it.",
             name, rank);
      for (PieceRecord& piece : tensor.pieces) {
        piece.file += first_file;
        into.pieces.push_back(std::move(piece));
      }
    }
  }
  return whole;
}

Manifest read_manifest(const std::filesystem::path& checkpoint) {
  const std::filesystem::path path = checkpoint / kManifestName;
  std::string text;
  try {
    text = read_text_file(path, kManifestLimitBytes, ExitCode::checkpoint);
  } catch (const Error&) {
    rethrow_file_error(path, 0);
  }
  Manifest manifest = parse_manifest(text, path.string());
  require_whole(manifest, path.string());
  return manifest;
}

}  // namespace trestle::checkpoint
