// tokenizer_replay WHAT [FOLDER]: runs models/text on what another program says, so that it can be
// the judge. One JSON value a line on standard input, one on standard output.
//
//   encode FOLDER   "text"       -> [ids]
//   decode FOLDER   [ids]        -> ["text", "text without special tokens"]
//   prompt FOLDER   {"prompts": [texts], "negative": [texts], "instruction": [texts] (null: the one
//                   built in), "length": n}
//                                -> {"positive": {"ids", "mask", "length", "selected"}, "negative"}
//   text            "text"       -> [lower, stripped, both]
//   instruction                  -> (no input) [lines]
#include "base/error.h"
#include "base/utf8.h"
#include "models/text/prompt_tokens.h"
#include "models/text/python_text.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <iostream>
#include <string>

namespace {

using namespace trestle;
using namespace trestle::models::text;
using nlohmann::json;

using Texts = std::vector<std::string>;
using Ids = std::vector<std::int64_t>;

void for_each_line(const std::function<json(const json&)>& answer) {
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(json::parse(line)).dump() << '\n';
  }
}

json described(const PromptTokens& prompts) {
  return {{"ids", prompts.tokens.ids},
          {"mask", prompts.tokens.mask},
          {"length", prompts.tokens.length},
          {"selected", prompts.selected}};
}

json replay_prompt(const Tokenizer& tokenizer, const json& asked) {
  const json& instruction = asked.at("instruction");
  const PromptTokenizer prompts(
      tokenizer, instruction.is_null() ? sana_instruction() : instruction.get<Texts>(),
      asked.at("length").get<std::int64_t>());
  return {{"positive", described(prompts.positive(asked.at("prompts").get<Texts>()))},
          {"negative", described(prompts.negative(asked.at("negative").get<Texts>()))}};
}

json replay_text(const std::string& text) {
  require_utf8(text, "the text");
  const std::string lowered = lower(text);
  return {lowered, strip(text), strip(lowered)};
}

void replay(const std::string& what, const std::string& folder) {
  if (what == "text") return for_each_line([](const json& line) { return replay_text(line); });
  if (what == "instruction") {
    std::cout << json(sana_instruction()).dump() << '\n';
    return;
  }
  const Tokenizer tokenizer = Tokenizer::from_folder(folder);
  if (what == "encode") {
    return for_each_line(
        [&](const json& line) { return tokenizer.encode(line.get<std::string>()); });
  }
  if (what == "decode") {
    return for_each_line([&](const json& line) {
      const auto ids = line.get<Ids>();
      return json{tokenizer.decode(ids, SpecialTokens::keep),
                  tokenizer.decode(ids, SpecialTokens::leave_out)};
    });
  }
  if (what == "prompt") {
    return for_each_line([&](const json& line) { return replay_prompt(tokenizer, line); });
  }
  fail(ExitCode::usage, "\"{}\" is nothing to replay. The file's top lists what is.", what);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    replay(argc > 1 ? argv[1] : "", argc > 2 ? argv[2] : "");
    return 0;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return static_cast<int>(error.code());
  }
}
