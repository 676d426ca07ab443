#include "formats/torch_zip.h"

#include "base/error.h"
#include "base/utf8.h"
#include "formats/file_problem.h"
#include "formats/strict_json.h"
#include "formats/torch_pickle.h"
#include "formats/zip_directory.h"

#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace trestle::formats {
namespace {

constexpr std::uint64_t kMaxPickleBytes = 64 << 20;
constexpr std::size_t kMaxDepth = 64;  // of dicts and lists in each other
constexpr std::size_t kMaxNameBytes = 1024;
constexpr int kNewestVersion = 10;
constexpr std::string_view kOldFormat("\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8\x50\x19.", 15);
constexpr std::string_view kSaveAgain =
    "Load it in Python and save it again: torch.save(torch.load(PATH, weights_only=True), PATH).";

std::string read(const FileReader& file, const ZipEntry& entry) {
  std::string text(entry.size_bytes, '\0');
  file.read_exact(entry.begin_bytes, std::as_writable_bytes(std::span(text)));
  return text;
}

/// The entries below the folder that torch.save names after its file.
class Archive {
 public:
  explicit Archive(const FileReader& file) : file_(file), entries_(read_zip_directory(file)) {
    constexpr std::string_view kPickle = "/data.pkl";
    const ZipEntry* pickle = nullptr;
    for (const ZipEntry& entry : entries_) {
      if (!entry.name.ends_with(kPickle) || entry.name.find('/') != entry.name.rfind('/')) continue;
      if (pickle != nullptr) refuse_damaged("it has two entries data.pkl");
      pickle = &entry;
    }
    if (pickle == nullptr) refuse_damaged("it has no data.pkl, and torch.save writes one");
    folder_ = pickle->name.substr(0, pickle->name.size() - kPickle.size() + 1);
    for (const ZipEntry& entry : entries_) by_name_.emplace(entry.name, &entry);
    check();
  }

  const ZipEntry* find(std::string_view name) const {
    const auto found = by_name_.find(folder_ + std::string(name));
    return found == by_name_.end() ? nullptr : found->second;
  }

  std::string text(std::string_view name, std::uint64_t limit_bytes) const {
    const ZipEntry* entry = find(name);
    if (entry == nullptr) refuse_damaged("it has no entry {}", name);
    if (entry->size_bytes > limit_bytes) {
      refuse_damaged("its {} has {} bytes, and {} are the most", name, entry->size_bytes,
                     limit_bytes);
    }
    return read(file_, *entry);
  }

 private:
  void check() const {
    if (find("constants.pkl") != nullptr) {
      throw FileProblem("it is a TorchScript program, not weights", kSaveAgain);
    }
    const std::string version = text("version", 16);
    const bool is_number =
        !version.empty() && version.size() <= 3 &&
        std::ranges::all_of(version, [](char c) { return (c >= '0' && c <= '9') || c == '\n'; });
    if (!is_number || std::atoi(version.c_str()) > kNewestVersion) {
      throw FileProblem(fmt::format("its format is version {}, and {} is the newest known",
                                    shown(version), kNewestVersion),
                        kSaveAgain);
    }
    if (find("byteorder") != nullptr && text("byteorder", 16) != "little") {
      throw FileProblem("it was written on a big-endian machine", kSaveAgain);
    }
  }

  const FileReader& file_;
  std::vector<ZipEntry> entries_;
  std::string folder_;  // with its /
  std::map<std::string_view, const ZipEntry*> by_name_;
};

/// Walks through the pickled value and names its tensors. A ring, and a value that stands in so
/// many places that they cannot be counted, end at the limits.
class Names {
 public:
  /// Places grow with the pickle's text, unless containers are shared: some are, and never many.
  Names(const Archive& archive, const Pickle& pickle, std::size_t pickle_bytes)
      : archive_(archive), pickle_(pickle), max_visits_(1000 + 4 * pickle_bytes) {}

  void visit(Pickle::Handle handle, const std::string& name, std::size_t depth) {
    if (depth > kMaxDepth) refuse_damaged("it nests deeper than {} levels", kMaxDepth);
    if (++visits_ > max_visits_) refuse_damaged("a few values of it stand in very many places");
    const Pickle::Value& value = pickle_[handle];
    if (const auto* tensor = std::get_if<Pickle::Tensor>(&value)) {
      add(pickle_.tensors[tensor->index], name.empty() ? "tensor" : name);
    } else if (const auto* dict = std::get_if<Pickle::Dict>(&value)) {
      for (const auto& [key, item] : dict->items) visit(item, join(name, text_of(key)), depth + 1);
    } else if (const auto* list = std::get_if<Pickle::List>(&value)) {
      visit_all(list->items, name, depth);
    } else if (const auto* tuple = std::get_if<Pickle::Tuple>(&value)) {
      visit_all(tuple->items, name, depth);
    } else {
      ++other_values;
    }
  }

  std::vector<StoredTensor> tensors;
  std::size_t other_values = 0;

 private:
  void visit_all(const std::vector<Pickle::Handle>& items, const std::string& name,
                 std::size_t depth) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      visit(items[i], join(name, std::to_string(i)), depth + 1);
    }
  }

  static std::string join(const std::string& name, std::string_view key) {
    if (name.size() + key.size() >= kMaxNameBytes) {
      refuse_damaged("a name of {} bytes begins {}", name.size() + key.size(),
                     shown(name.empty() ? key : name));
    }
    return name.empty() ? std::string(key) : fmt::format("{}.{}", name, key);
  }

  std::string text_of(Pickle::Handle key) const {
    const Pickle::Value& value = pickle_[key];
    if (const auto* number = std::get_if<std::int64_t>(&value)) return std::to_string(*number);
    const auto* text = std::get_if<std::string_view>(&value);
    if (text == nullptr) refuse_damaged("a dict has a key that is neither a text nor an integer");
    if (valid_utf8_bytes(*text) != text->size())
      refuse_damaged("the key {} is not UTF-8", shown(*text));
    return std::string(*text);
  }

  void add(const PickledTensor& pickled, const std::string& name) {
    const ZipEntry* entry = archive_.find(fmt::format("data/{}", pickled.storage));
    if (entry == nullptr) {
      refuse_damaged("tensor {} lies in storage {}, which is missing", shown(name),
                     shown(pickled.storage));
    }
    if (entry->size_bytes != pickled.storage_bytes) {
      refuse_damaged("tensor {} lies in storage {} of {} bytes, which has {}", shown(name),
                     shown(pickled.storage), pickled.storage_bytes, entry->size_bytes);
    }
    if (!names_.insert(name).second) refuse_damaged("two tensors are named {}", shown(name));
    if (names_.size() > Pickle::kMaxTensors) {
      refuse_damaged("it holds more than {} tensors", Pickle::kMaxTensors);
    }
    const std::uint64_t width = element_bytes(pickled.dtype);
    StoredTensor tensor{.name = name,
                        .dtype = pickled.dtype,
                        .shape = pickled.shape,
                        .strides = {},
                        .begin_bytes = entry->begin_bytes + pickled.offset * width,
                        .span_bytes = pickled.span * width};
    if (!is_row_major(pickled.shape, pickled.strides)) tensor.strides = pickled.strides;
    tensors.push_back(std::move(tensor));
  }

  const Archive& archive_;
  const Pickle& pickle_;
  std::set<std::string> names_;
  std::size_t max_visits_, visits_ = 0;
};

void refuse_other_formats(const FileReader& file) {
  std::string start(std::min<std::uint64_t>(file.size_bytes(), kOldFormat.size()), '\0');
  file.read_exact(0, std::as_writable_bytes(std::span(start)));
  if (start == kOldFormat) {
    throw FileProblem("it has the format that torch.save wrote before torch 1.6", kSaveAgain);
  }
  if (!start.starts_with("PK")) refuse_damaged("it is no zip file, and torch.save writes one");
}

}  // namespace

TorchZip TorchZip::open(const std::filesystem::path& path) {
  TorchZip result{FileReader(path, ExitCode::data)};
  try {
    refuse_other_formats(result.file_);
    const Archive archive(result.file_);
    const std::string text = archive.text("data.pkl", kMaxPickleBytes);
    const Pickle pickle = read_torch_pickle(text);
    Names names(archive, pickle, text.size());
    names.visit(pickle.root, "", 0);
    result.tensors_ = std::move(names.tensors);
    result.other_values_ = names.other_values;
  } catch (const FileProblem& problem) {
    fail(ExitCode::data, "{} cannot be read as a file of torch.save ({}). {}", path.string(),
         problem.what(), problem.what_to_do());
  }
  return result;
}

}  // namespace trestle::formats
