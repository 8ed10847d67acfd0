// The program as a user meets it: every mistake gives one clear `error:` line and the right exit code, runs stop, go on and repeat
// to the byte.
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <zlib.h>

#include <regex>

#include "falconet/nn/models.h"
#include "program.h"

using namespace falconet::testing;

namespace {

// Lines of stderr that are not progress.
std::vector<std::string> error_lines(std::string const& err) {
  std::vector<std::string> out;
  std::stringstream in(err);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with("error:")) out.push_back(line);
  return out;
}

// The program refuses: this exit code, one error line, and it holds these words.
void expect_refusal(Result const& r, int code, std::vector<std::string> const& words) {
  EXPECT_EQ(r.code, code) << r.err;
  auto const lines = error_lines(r.err);
  ASSERT_EQ(lines.size(), 1u) << r.err;
  for (auto const& w : words) EXPECT_NE(lines[0].find(w), std::string::npos) << "'" << w << "' is not in: " << lines[0];
}

std::vector<std::string> files_below(fs::path const& folder) {
  std::vector<std::string> out;
  if (fs::exists(folder))
    for (auto const& e : fs::recursive_directory_iterator(folder)) out.push_back(fs::relative(e.path(), folder).string());
  std::sort(out.begin(), out.end());
  return out;
}

std::string without_seconds(std::string const& csv) { return std::regex_replace(csv, std::regex(",[^,\n]*\n"), "\n"); }

class Commands : public ::testing::Test {
 protected:
  Commands() { write_digits(folder.path / "digits"); }
  std::vector<std::string> training(std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {"train",    "model=lenet5", "data=mnist:digits", "epochs=2",
                                      "batch=32", "lr=0.05",      "momentum=0.9",      "seed=3"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Result falconet(std::vector<std::string> const& words, rlim_t file_limit = RLIM_INFINITY) const {
    return run(words, folder.path, file_limit);
  }
  void expect_no_run() const { EXPECT_FALSE(fs::exists(folder.path / "runs/train1")) << "a refused run left its folder"; }
  void expect_same_run(std::string const& a, std::string const& b) const {
    EXPECT_TRUE(contents(folder.path / a / "best.safetensors") == contents(folder.path / b / "best.safetensors"))
        << "best.safetensors differ";
    EXPECT_EQ(without_seconds(contents(folder.path / a / "results.csv")), without_seconds(contents(folder.path / b / "results.csv")));
  }
  Folder folder;
};

}  // namespace

// ---- words ----

TEST_F(Commands, HelpAndVersionAreOnStandardOutput) {
  for (auto const& words : std::vector<std::vector<std::string>>{
           {"help"}, {"--help"}, {"help", "train"}, {"train", "--help"}, {"help", "bench", "conv"}, {"help", "bench"}, {"--version"}}) {
    auto const r = falconet(words);
    EXPECT_EQ(r.code, 0) << words[0];
    EXPECT_EQ(r.err, "");
    EXPECT_FALSE(r.out.empty());
  }
  EXPECT_NE(falconet({"help", "train"}).out.find("epochs="), std::string::npos);
  for (auto const& network : falconet::models::known()) EXPECT_NE(falconet({"help", "train"}).out.find(network.name), std::string::npos) << network.name;
  auto const r = falconet({});
  EXPECT_EQ(r.code, 2);
  EXPECT_NE(r.err.find("train"), std::string::npos);
}

TEST_F(Commands, UnknownNamesGetTheNearestOne) {
  expect_refusal(falconet({"trian"}), 2, {"unknown verb 'trian'", "train"});
  expect_refusal(falconet({"bench", "cnov"}), 2, {"cnov", "conv"});
  expect_refusal(falconet(training({"epocs=3"})), 2, {"epocs", "epochs"});
  expect_refusal(falconet(training({"lerning=1"})), 2, {"lerning", "'lr'"});
  expect_refusal(falconet({"train", "model=resnet21", "data=mnist:digits"}), 2, {"resnet21", "resnet20"});
  expect_refusal(falconet({"train", "model=lenet5", "data=minst:digits"}), 2, {"minst", "mnist"});
  expect_refusal(falconet({"train", "recipe=mnits"}), 2, {"mnits", "mnist"});
  expect_refusal(falconet(training({"pin.conv1=driect"})), 2, {"driect", "direct"});
  expect_refusal(falconet(training({"pin.conv9=direct"})), 2, {"conv9"});
  expect_refusal(falconet(training({"pin.conv1:fwd=direct:tile=99"})), 2, {"pin.conv1:fwd=direct:tile=99: direct: tile cannot be 99 here, only 1.."});
  expect_refusal(falconet(training({"pin.conv1:fwd=direct:rows=4"})), 2, {"pin.conv1:fwd", "no launch parameter 'rows'", "tile:1.."});
  expect_refusal(falconet(training({"pin.conv1:fwd=direct:lane=1"})), 2, {"pin.conv1:fwd=direct:lane=1: launches on the CPU run one after another"});
  expect_refusal(falconet({"bench", "conv", "problems=n1 c4 hw8 k4 rs3 f32 nhwc", "algorithms=driect"}), 2, {"driect", "direct"});
  expect_refusal(falconet({"bench", "conv", "problems=li2018"}), 2, {"li2018", "li2019"});
  expect_refusal(falconet({"bench", "conv", "problems=n1 c4 hw8 k4 rs9 f32 nhwc"}), 2, {"rs9"});
  expect_refusal(falconet({"summary", "model=lenet5", "after=fuze"}), 2, {"fuze", "fuse"});
  expect_no_run();
}

TEST_F(Commands, ValuesOutOfRangeAreRefused) {
  expect_refusal(falconet(training({"batch=0"})), 2, {"batch", "0"});
  expect_refusal(falconet(training({"lr=-0.1"})), 2, {"lr", "-0.1"});
  expect_refusal(falconet(training({"epochs=0"})), 2, {"epochs", "0"});
  expect_refusal(falconet(training({"epochs=three"})), 2, {"epochs", "three"});
  expect_refusal(falconet(training({"augment=crop"})), 2, {"augment", "crop4"});
  expect_refusal(falconet(training({"device=gpu"})), 2, {"gpu", "cuda"});
  expect_refusal(falconet(training({"threads=0"})), 2, {"threads"});
  expect_refusal(falconet(training({"threads=100000"})), 2, {"threads", "from 1 to 1024", "100000"});
  expect_refusal(falconet(training({"epochs=4294967297"})), 2, {"epochs", "from 1 to 1000000", "4294967297"});
  expect_refusal(falconet({"bench", "train", "model=lenet5", "steps=4294967297"}), 2, {"steps", "from 1 to 1000000"});
  expect_no_run();
}

// Where no GPU can be used, be it that none is there, no driver, or no CUDA in the build: hidden ones count as absent.
TEST_F(Commands, WithoutAGpuTheCpuIsTakenAndCudaIsRefusedInOneLine) {
  struct Hidden {
    Hidden() { setenv("CUDA_VISIBLE_DEVICES", "", 1); }
    ~Hidden() { unsetenv("CUDA_VISIBLE_DEVICES"); }
  } const hidden;
  auto const checks = falconet({"checks"});
  EXPECT_EQ(checks.code, 0) << checks.err;
  EXPECT_NE(checks.out.find("training runs on   the CPU"), std::string::npos) << checks.out;
  for (std::string const device : {"device=cuda", "device=cuda:0"}) {
    auto const refused = falconet(training({device}));
    expect_refusal(refused, 1, {});
    bool named = false;
    for (char const* reason : {"no NVIDIA driver was found", "no NVIDIA GPU was found", "built without CUDA"}) named |= refused.err.find(reason) != std::string::npos;
    EXPECT_TRUE(named) << refused.err;
    EXPECT_EQ(falconet({"summary", "model=lenet5", device}).code, 1);
    EXPECT_EQ(falconet({"bench", "conv", "problems=n1 c4 hw8 k4 rs3 f32 nhwc", device}).code, 1);
  }
  expect_refusal(falconet(training({"precision=tf32", "device=auto"})), 2, {"precision=tf32", "NVIDIA", "CPU"});
  expect_no_run();
  auto const trained = falconet(training({"device=auto", "epochs=1"}));
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(contents(folder.path / "runs/train1/log.txt").find(", cpu ("), std::string::npos);
}

TEST_F(Commands, AMissingSettingIsNamed) {
  expect_refusal(falconet({"train", "data=mnist:digits"}), 2, {"model="});
  expect_refusal(falconet({"train", "model=lenet5"}), 2, {"data="});
  expect_refusal(falconet({"eval", "data=mnist:digits"}), 2, {"model="});
  expect_refusal(falconet({"predict", "model=x"}), 1, {"x"});
  expect_refusal(falconet({"bench"}), 2, {"conv", "train"});
  expect_refusal(falconet({"bench", "conv"}), 2, {"problems="});
}

// ---- data ----

TEST_F(Commands, DamagedDataIsRefused) {
  struct Case {
    std::string file, text;
    std::vector<std::string> words;
  };
  auto const good = digits(400, 1);
  std::string bad_label = good.labels;
  bad_label[8 + 17] = 10;
  for (auto const& c : std::vector<Case>{
           {"train-images-idx3-ubyte", "", {"train-images", "empty"}},
           {"train-images-idx3-ubyte", good.images.substr(0, 5000), {"train-images", "cut off"}},
           {"train-images-idx3-ubyte", good.labels, {"train-images", "magic"}},
           {"train-images-idx3-ubyte", digits(399, 1).images, {"399", "400"}},
           {"train-labels-idx1-ubyte", bad_label, {"train-labels", "label"}},
           {"t10k-labels-idx1-ubyte", digits(119, 2).labels, {"119", "120"}},
       }) {
    auto const path = folder.path / "digits" / c.file;
    auto const before = contents(path);
    write(path, c.text);
    expect_refusal(falconet(training()), 1, c.words);
    write(path, before);
  }
  fs::remove(folder.path / "digits/t10k-images-idx3-ubyte");
  expect_refusal(falconet(training()), 1, {"t10k-images-idx3-ubyte"});
  expect_refusal(falconet({"train", "model=lenet5", "data=mnist:nowhere"}), 1, {"nowhere"});
  expect_no_run();
}

// ---- runs ----

TEST_F(Commands, ARunLeavesItsFolderAndServesEvalAndPredict) {
  auto const r = falconet(training({"run=r", "epochs=6"}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_TRUE(std::regex_search(r.out, std::regex("\nbest val [01]\\.[0-9]{4}\n$"))) << r.out;
  EXPECT_EQ(files_below(folder.path / "r"),
            (std::vector<std::string>{"args.toml", "best.safetensors", "confusion.svg", "last.ckpt", "lock", "log.txt", "plan.tsv",
                                      "previous.ckpt", "report.html", "results.csv", "results.svg"}));
  auto const args = contents(folder.path / "r/args.toml");
  EXPECT_NE(args.find("epochs = 6"), std::string::npos) << args;
  EXPECT_NE(args.find("# command line"), std::string::npos) << args;

  auto const e = falconet({"eval", "model=r", "data=mnist:digits", "json=true"});
  ASSERT_EQ(e.code, 0) << e.err;
  std::smatch accuracy;
  ASSERT_TRUE(std::regex_search(e.out, accuracy, std::regex("\"accuracy\": ([0-9.]+)"))) << e.out;
  EXPECT_GT(std::stod(accuracy[1]), 0.9);
  std::smatch best;
  ASSERT_TRUE(std::regex_search(r.out, best, std::regex("best val ([0-9.]+)")));
  EXPECT_NEAR(std::stod(accuracy[1]), std::stod(best[1]), 1e-4);

  auto const p = falconet({"predict", "model=r/best.safetensors", "data=mnist:digits", "count=5", "top=2"});
  ASSERT_EQ(p.code, 0) << p.err;
  EXPECT_TRUE(std::regex_search(p.out, std::regex("[0-5] of 5 right\n$"))) << p.out;

  expect_refusal(falconet(training({"run=r"})), 1, {"r holds a run already"});
  expect_refusal(falconet({"predict", "model=r", "no.png"}), 1, {"no.png"});
  expect_refusal(falconet({"eval", "model=lenet5", "data=mnist:digits"}), 2, {"untrained"});

  // Finished: says so, and changes nothing but what is missing or ahead of the checkpoint.
  auto const before = contents(folder.path / "r/last.ckpt");
  auto const again = falconet({"train", "resume=r"});
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.out.find("r is finished"), std::string::npos) << again.out;
  EXPECT_TRUE(before == contents(folder.path / "r/last.ckpt"));
  std::vector<std::string> const made = {"report.html", "results.svg", "confusion.svg"};
  for (auto const& removed : std::vector<std::vector<std::string>>{made, {"report.html"}, {"results.svg"}, {"confusion.svg"}}) {
    std::vector<std::string> texts;
    for (auto const& file : made) texts.push_back(contents(folder.path / "r" / file));
    for (auto const& file : removed) fs::remove(folder.path / "r" / file);
    auto const rebuilt = falconet({"train", "resume=r"});
    EXPECT_EQ(rebuilt.code, 0) << rebuilt.err;
    EXPECT_NE(rebuilt.out.find("r is finished"), std::string::npos) << rebuilt.out;
    EXPECT_NE(rebuilt.out.find("written again"), std::string::npos) << rebuilt.out;
    for (std::size_t i = 1; i < made.size(); ++i) EXPECT_EQ(contents(folder.path / "r" / made[i]), texts[i]) << made[i];
    EXPECT_NE(contents(folder.path / "r/report.html").find("</html>"), std::string::npos);
  }
  EXPECT_TRUE(before == contents(folder.path / "r/last.ckpt"));
}

TEST_F(Commands, RowsOfResultsThatAreNewerThanTheCheckpointAreCut) {
  ASSERT_EQ(falconet(training({"run=whole", "epochs=3"})).code, 0);
  ASSERT_EQ(falconet(training({"run=ahead", "epochs=2"})).code, 0);
  auto const csv = contents(folder.path / "ahead/results.csv");
  write(folder.path / "ahead/results.csv", csv + "3,39,1,1,1,1,1,1\n4,52,1,1,1,1,1,1\n");
  EXPECT_EQ(falconet({"train", "resume=ahead"}).code, 0);   // finished: nothing is trained, the rows go all the same
  EXPECT_EQ(contents(folder.path / "ahead/results.csv"), csv);
  write(folder.path / "ahead/results.csv", csv + "3,39,1,1,1,1,1,1\n");
  ASSERT_EQ(falconet({"train", "resume=ahead", "epochs=3"}).code, 0);
  expect_same_run("whole", "ahead");
}

TEST_F(Commands, TheAccuracyOfARecipeIsAskedOfItsOwnEpochsAlone) {
  write(folder.path / "hard.toml", "model = \"lenet5\"\ndata = \"mnist:digits\"\nbatch = 32\nepochs = 1\naccuracy = 1.0\nlr = 0.0001\n");
  auto const asked = [&](std::vector<std::string> const& more) {
    std::vector<std::string> words = {"train", "recipe=hard.toml"};
    words.insert(words.end(), more.begin(), more.end());
    auto const r = falconet(words);
    EXPECT_EQ(r.code, 0) << r.err;
    auto const at = r.out.find(": not reached\n");
    return at == std::string::npos ? std::string() : r.out.substr(r.out.rfind('\n', at) + 1, at - r.out.rfind('\n', at) - 1);
  };
  EXPECT_EQ(asked({"run=own"}), "recipe hard.toml promises 1.0000");
  EXPECT_NE(contents(folder.path / "own/report.html").find("not reached"), std::string::npos);
  EXPECT_EQ(asked({"run=longer", "epochs=2"}), "");
  EXPECT_EQ(contents(folder.path / "longer/report.html").find("not reached"), std::string::npos);
  EXPECT_EQ(asked({"run=less", "examples=64"}), "");
  EXPECT_EQ(asked({"run=asked", "epochs=2", "accuracy=0.999"}), "accuracy= asks for 0.9990");   // asked for by the user
}

// A gray PNG file of one digit.
std::string png(std::string const& pixels, int size) {
  auto const chunk = [](std::string const& type, std::string const& data) {
    auto const body = type + data;
    return big_endian(std::uint32_t(data.size())) + body +
           big_endian(std::uint32_t(crc32(0, reinterpret_cast<Bytef const*>(body.data()), uInt(body.size()))));
  };
  std::string rows;
  for (int y = 0; y < size; ++y) rows += std::string(1, '\0') + pixels.substr(std::size_t(y * size), std::size_t(size));
  std::string packed(compressBound(rows.size()), '\0');
  uLongf length = packed.size();
  compress(reinterpret_cast<Bytef*>(packed.data()), &length, reinterpret_cast<Bytef const*>(rows.data()), rows.size());
  packed.resize(length);
  return "\x89PNG\r\n\x1a\n" +
         chunk("IHDR", big_endian(std::uint32_t(size)) + big_endian(std::uint32_t(size)) + std::string("\x08\0\0\0\0", 5)) +
         chunk("IDAT", packed) + chunk("IEND", "");
}

TEST_F(Commands, PredictTakesFilesAndFolders) {
  ASSERT_EQ(falconet(training({"run=r", "epochs=6"})).code, 0);
  auto const test = digits(120, 2);
  for (int i = 0; i < 3; ++i)
    write(folder.path / "pictures" / (std::to_string(i) + ".png"), png(test.images.substr(std::size_t(16 + i * 784), 784), 28));
  write(folder.path / "pictures/notes.txt", "not an image");
  auto const of_files = falconet({"predict", "model=r", "pictures", "pictures/1.png", "json=true"});
  ASSERT_EQ(of_files.code, 0) << of_files.err;
  auto const of_data = falconet({"predict", "model=r", "data=mnist:digits", "count=3", "json=true"});
  auto const predictions = [](std::string const& out) {
    std::vector<std::string> found;
    std::regex const pattern("\"label\": \"([0-9])\", \"probability\": ([0-9.e-]+)");
    for (std::sregex_iterator at(out.begin(), out.end(), pattern), end; at != end; ++at) found.push_back((*at)[0]);
    return found;
  };
  auto const a = predictions(of_files.out), b = predictions(of_data.out);
  ASSERT_EQ(a.size(), 4u) << of_files.out;
  ASSERT_EQ(b.size(), 3u) << of_data.out;
  EXPECT_EQ((std::vector<std::string>{a[0], a[1], a[2]}), b);  // the same pixels, the same probabilities
  EXPECT_EQ(a[3], b[1]);

  // In batches: the same labels in the same order, whatever is left for the last batch.
  auto const labels = [](std::string const& out) {
    std::vector<std::string> found;
    std::regex const pattern("\"image\": \"([^\"]*)\", \"label\": \"([0-9])\"");
    for (std::sregex_iterator at(out.begin(), out.end(), pattern), end; at != end; ++at) found.push_back((*at)[1].str() + " " + (*at)[2].str());
    return found;
  };
  std::vector<std::string> words = {"predict", "model=r", "pictures", "data=mnist:digits", "count=40", "top=3", "json=true"};
  auto const singly = labels(falconet(words).out);
  ASSERT_EQ(singly.size(), 43u);
  for (char const* batch : {"batch=8", "batch=43", "batch=1000000"}) {
    words.push_back(batch);
    auto const r = falconet(words);
    EXPECT_EQ(r.code, 0) << r.err;
    EXPECT_EQ(labels(r.out), singly) << batch;
    words.pop_back();
  }
  write(folder.path / "bad.png", png(test.images.substr(16, 784), 28).substr(0, 100));
  expect_refusal(falconet({"predict", "model=r", "bad.png"}), 1, {"bad.png"});
  expect_refusal(falconet({"predict", "model=r", "digits"}), 1, {"digits", ".png"});
  fs::rename(folder.path / "bad.png", folder.path / "pictures/1a.png");   // one among others: they go on
  fs::rename(folder.path / "pictures/2.png", folder.path / "pictures/2\xff\xc3.png");
  auto const some = falconet({"predict", "model=r", "pictures", "json=true"});
  EXPECT_EQ(some.code, 1);
  EXPECT_EQ(labels(some.out).size(), 3u) << some.out;
  EXPECT_NE(some.err.find("error: pictures/1a.png"), std::string::npos) << some.err;
  EXPECT_NE(some.err.find("note: 1 of 4 files could not be read"), std::string::npos) << some.err;
  EXPECT_NE(some.out.find("\"pictures/2\\ufffd\\ufffd.png\""), std::string::npos) << some.out;   // so that the row parses
}

TEST_F(Commands, AHeldOutPartIsForChoosingAndTheTestSetForTheReport) {
  auto const r = falconet(training({"run=held", "epochs=2", "validation=0.25", "json=true", "optimizer=adam", "momentum=0.5"}));
  ASSERT_EQ(r.code, 0) << r.err;
  EXPECT_NE(r.err.find("note: momentum= has no effect with optimizer=adam\n"), std::string::npos) << r.err;
  for (char const* row : {"{\"what\": \"epoch\", \"epoch\": 1, ", "{\"what\": \"epoch\", \"epoch\": 2, ", "{\"what\": \"train_run\""})
    EXPECT_NE(r.out.find(row), std::string::npos) << r.out;
  EXPECT_NE(contents(folder.path / "held/report.html").find("on 120 samples"), std::string::npos);
  for (char const* file : {"held", "held/best.safetensors"})
    EXPECT_EQ(falconet({"summary", std::string("model=") + file, "batch=4"}).code, 0) << file;
  expect_refusal(falconet({"summary", "model=held", "weights=held"}), 2, {"model=held", "weights="});
}

TEST_F(Commands, RunsWithoutAFolderAreNumbered) {
  ASSERT_EQ(falconet(training({"epochs=1", "examples=64"})).code, 0);
  ASSERT_EQ(falconet(training({"epochs=1", "examples=64"})).code, 0);
  EXPECT_TRUE(fs::exists(folder.path / "runs/train1/best.safetensors"));
  EXPECT_TRUE(fs::exists(folder.path / "runs/train2/best.safetensors"));
}

TEST_F(Commands, TheSameSeedGivesTheSameBytesForAnyNumberOfThreads) {
  ASSERT_EQ(falconet(training({"run=a", "threads=1"})).code, 0);
  ASSERT_EQ(falconet(training({"run=b", "threads=2"})).code, 0);
  ASSERT_EQ(falconet(training({"run=c", "threads=2"})).code, 0);
  expect_same_run("a", "b");
  expect_same_run("b", "c");
}

TEST_F(Commands, AnInterruptedRunGoesOnToTheSameBytes) {
  write_digits(folder.path / "digits", 2000, 120);
  ASSERT_EQ(falconet(training({"run=whole", "epochs=4"})).code, 0);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    std::string const name = "by_" + std::to_string(signal);
    // The program waits within step 1 for a reader of its log, so the signal comes within epoch 1, however fast or slow the machine is.
    auto const log = folder.path / name / "log.txt";
    fs::create_directories(log.parent_path());
    ASSERT_EQ(mkfifo(log.c_str(), 0600), 0);
    Process p(training({"run=" + name, "epochs=4"}), folder.path);
    ASSERT_TRUE(eventually([&] { return fs::exists(folder.path / name / "args.toml"); }));
    p.kill(signal);
    int const reader = open(log.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    auto const r = p.wait();
    close(reader);
    fs::remove(log);
    expect_refusal(r, 130, {"stopped in epoch 1, batch 1 of 63", "resume=" + name});
    auto const resumed = falconet({"train", "resume=" + name});
    ASSERT_EQ(resumed.code, 0) << resumed.err;
    expect_same_run("whole", name);
  }
}

TEST_F(Commands, AKilledRunGoesOnFromItsCheckpoint) {
  write_digits(folder.path / "digits", 2000, 120);
  ASSERT_EQ(falconet(training({"run=whole", "epochs=4"})).code, 0);
  {
    Process p(training({"run=killed", "epochs=4"}), folder.path);
    ASSERT_TRUE(eventually([&] { return fs::exists(folder.path / "killed/last.ckpt"); }));
    p.kill(SIGKILL);
    EXPECT_EQ(p.wait().code, 128 + SIGKILL);
  }
  auto const resumed = falconet({"train", "resume=killed/"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  expect_same_run("whole", "killed");
}

TEST_F(Commands, ADamagedCheckpointGivesWayToThePreviousOne) {
  ASSERT_EQ(falconet(training({"run=whole", "epochs=4"})).code, 0);
  ASSERT_EQ(falconet(training({"run=cut", "epochs=3"})).code, 0);
  auto const last = contents(folder.path / "cut/last.ckpt");
  write(folder.path / "cut/last.ckpt", last.substr(0, last.size() / 2));
  auto const resumed = falconet({"train", "resume=cut", "epochs=4"});
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_NE(resumed.err.find("previous.ckpt"), std::string::npos) << resumed.err;
  expect_same_run("whole", "cut");

  ASSERT_EQ(falconet(training({"run=flip", "epochs=1"})).code, 0);
  auto flipped = contents(folder.path / "flip/last.ckpt");
  flipped[flipped.size() / 2] = char(flipped[flipped.size() / 2] ^ 4);
  write(folder.path / "flip/last.ckpt", flipped);
  expect_refusal(falconet({"train", "resume=flip", "epochs=4"}), 1, {"last.ckpt"});
  EXPECT_TRUE(flipped == contents(folder.path / "flip/last.ckpt"));

  // Both: each is named with what is wrong with it.
  write(folder.path / "flip/previous.ckpt", flipped.substr(0, 1000));
  expect_refusal(falconet({"train", "resume=flip", "epochs=4"}), 1, {"flip/last.ckpt: is damaged", "flip/previous.ckpt: is cut off"});
}

TEST_F(Commands, TwoProcessesDoNotShareARunFolder) {
  write_digits(folder.path / "digits", 2000, 120);
  Process first(training({"run=shared", "epochs=50"}), folder.path);
  ASSERT_TRUE(eventually([&] { return fs::exists(folder.path / "shared/args.toml"); }));
  auto const args = contents(folder.path / "shared/args.toml");
  expect_refusal(falconet(training({"run=shared", "epochs=7"})), 1, {"shared", "process"});
  EXPECT_EQ(args, contents(folder.path / "shared/args.toml"));
  expect_refusal(falconet({"train", "resume=shared"}), 1, {"shared/lock", "in use by process"});
  first.kill(SIGINT);
  EXPECT_EQ(first.wait().code, 130);
}

// The report, which takes a while after the last epoch, is still the run's.
TEST_F(Commands, ARunFolderIsHeldUntilItsReportIsWritten) {
  write_digits(folder.path / "digits", 64, 4000);
  Process p(training({"run=r", "epochs=1"}), folder.path);
  auto const in_folder = [&](char const* file) { return folder.path / "r" / file; };
  ASSERT_TRUE(eventually([&] { return fs::exists(in_folder("args.toml")); }));
  int const lock = open(in_folder("lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(lock, 0);
  bool free = false;
  EXPECT_TRUE(eventually([&] { return (free = flock(lock, LOCK_EX | LOCK_NB) == 0) || fs::exists(in_folder("report.html")); }));
  EXPECT_TRUE(!free || fs::exists(in_folder("report.html"))) << "it was free before the report was written";
  close(lock);
  EXPECT_EQ(p.wait().code, 0);
}

TEST_F(Commands, AFullDiskLosesNothing) {
  ASSERT_EQ(falconet(training({"run=full", "epochs=1"})).code, 0);
  auto const checkpoint = contents(folder.path / "full/last.ckpt"), best = contents(folder.path / "full/best.safetensors");
  expect_refusal(falconet({"train", "resume=full", "epochs=3"}, 100 << 10), 1, {"full/"});
  EXPECT_TRUE(checkpoint == contents(folder.path / "full/last.ckpt"));
  EXPECT_TRUE(best == contents(folder.path / "full/best.safetensors"));
  auto const resumed = falconet({"train", "resume=full", "epochs=3"});
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  for (auto const& file : files_below(folder.path / "full")) EXPECT_EQ(file.find("tmp"), std::string::npos) << file << " was left behind";
}

TEST_F(Commands, ARunFolderThatCannotBeMadeIsNamed) {
  write(folder.path / "file", "x");
  expect_refusal(falconet(training({"run=file/run"})), 1, {"file"});
  expect_refusal(falconet(training({"run=file"})), 1, {"file"});
  expect_refusal(falconet({"train", "model=lenet5", "data=mnist:nowhere", "run=file/run/deeper"}), 1, {"file/run/deeper", "file is a file"});
  expect_refusal(falconet({"train", "resume=nowhere"}), 1, {"nowhere"});
}

TEST_F(Commands, ALossThatIsNotFiniteStopsTheRunAndNamesLayerAndStep) {
  expect_refusal(falconet(training({"lr=1e6", "momentum=0", "run=nan"})), 1, {"step ", "first layer", "learning rate"});
  EXPECT_FALSE(fs::exists(folder.path / "nan/best.safetensors"));
}

TEST_F(Commands, ALossThatIsHugeButFiniteStopsTheRun) {
  expect_refusal(falconet(training({"optimizer=adam", "lr=100", "run=far"})), 1, {"step ", "diverged", "epoch 1", "learning rate"});
  EXPECT_FALSE(fs::exists(folder.path / "far/best.safetensors"));
}

TEST_F(Commands, WeightsThatDoNotFitAreListed) {
  ASSERT_EQ(falconet(training({"run=r", "epochs=1"})).code, 0);
  expect_refusal(falconet({"train", "model=mnist_cnn", "data=mnist:digits", "weights=r/best.safetensors"}), 1,
                 {"unexpected: fc3.bias, fc3.weight", "conv1.weight"});
  auto const weights = contents(folder.path / "r/best.safetensors");
  write(folder.path / "cut.safetensors", weights.substr(0, 1000));
  expect_refusal(falconet({"eval", "model=cut.safetensors", "data=mnist:digits"}), 1, {"cut.safetensors"});
  expect_refusal(falconet({"train", "model=resnet20", "data=mnist:digits", "weights=r/best.safetensors"}), 1,
                 {"missing: bn1.weight, ", " and 98 more; unexpected: ", " and 1 more; of another shape: conv1.weight"});
  expect_refusal(falconet({"train", "model=mnist_cnn", "data=mnist:digits", "weights=partial:r/best.safetensors"}), 1,
                 {"none of its tensors fits the network; ", "conv1.weight"});
  expect_refusal(falconet({"eval", "model=lenet5", "data=mnist:digits", "weights=partial:r/best.safetensors"}), 2, {"partial:r/best.safetensors"});
  expect_no_run();
}

TEST_F(Commands, WeightsGoIntoANetworkByName) {
  ASSERT_EQ(falconet(training({"run=r", "epochs=1"})).code, 0);
  auto const last_line = [](Result const& r) { return std::regex_replace(r.out.substr(r.out.rfind("images of")), std::regex(" in [^:]*:"), ""); };
  auto const named = falconet({"eval", "model=lenet5", "weights=r/best.safetensors", "data=mnist:digits"}), run = falconet({"eval", "model=r", "data=mnist:digits"});
  ASSERT_EQ(named.code, 0) << named.err;
  EXPECT_EQ(last_line(named), last_line(run));
  EXPECT_EQ(falconet({"predict", "model=lenet5", "weights=r", "data=mnist:digits", "count=2"}).code, 0);
  EXPECT_EQ(falconet({"summary", "model=lenet5", "weights=r"}).code, 0);
  auto const other = falconet({"bench", "predict", "model=lenet5", "classes=4", "weights=partial:r", "steps=1"});
  EXPECT_EQ(other.code, 0);
  EXPECT_EQ(other.err, "note: r/best.safetensors: 8 tensors read; of another shape: fc3.weight (f32[10x84] instead of 4x84), fc3.bias (f32[10] instead of 4)\n");
  expect_refusal(falconet({"bench", "predict", "model=lenet5", "classes=4", "weights=r"}), 1, {"do not fit the network", "fc3.weight"});
}

// ---- the other verbs ----

TEST_F(Commands, SummaryChecksAndBenchSayWhatTheyShould) {
  auto const s = falconet({"summary", "model=mnist_cnn"});
  ASSERT_EQ(s.code, 0) << s.err;
  EXPECT_NE(s.out.find("105,634 parameters"), std::string::npos) << s.out;
  for (char const* pass : {"gradients", "fuse", "choose"})
    EXPECT_EQ(falconet({"summary", "model=lenet5", std::string("after=") + pass}).code, 0) << pass;
  EXPECT_EQ(falconet({"summary", "model=lenet5", "why=true", "batch=8"}).code, 0);
  auto const residual = falconet({"summary", "model=resnet20", "batch=8"});
  ASSERT_EQ(residual.code, 0) << residual.err;
  EXPECT_EQ(residual.out.find(",reference"), std::string::npos) << residual.out;
  EXPECT_LT(residual.out.find("\nlayer3.2.relu_1 "), residual.out.find("\ncross_entropy ")) << residual.out;   // in the order of the network
  auto const rows = falconet({"summary", "model=resnet20", "batch=8", "json=true", "why=true"});
  ASSERT_EQ(rows.code, 0) << rows.err;
  std::stringstream lines(rows.out);
  for (std::string line; std::getline(lines, line);) EXPECT_TRUE(line.starts_with("{\"what\": \"") && line.ends_with("}")) << line;
  EXPECT_NE(rows.out.find("\"layer\": \"layer3.2.conv2\""), std::string::npos) << rows.out;
  EXPECT_NE(rows.out.find("\"what\": \"summary\", \"model\": \"resnet20\", \"batch\": 8"), std::string::npos) << rows.out;
  expect_refusal(falconet({"summary", "model=lenet5", "after=fuse", "json=true"}), 2, {"after=", "json"});

  auto const c = falconet({"checks"});
  EXPECT_EQ(c.code, 0) << c.err;
  EXPECT_NE(c.out.find("training runs on"), std::string::npos) << c.out;

  auto const t = falconet({"bench", "train", "model=lenet5", "batch=8", "steps=3", "json=true"});
  ASSERT_EQ(t.code, 0) << t.err;
  for (char const* key : {"what", "model", "batch", "precision", "device", "threads", "ms", "ms_min", "peak_bytes"})
    EXPECT_NE(t.out.substr(0, t.out.find('\n')).find("\"" + std::string(key) + "\": "), std::string::npos) << key << " in " << t.out;
  EXPECT_EQ(falconet({"bench", "predict", "model=lenet5", "steps=3"}).code, 0);

  auto const b =
      falconet({"bench", "conv", "problems=n2 c4 hw8 k4 rs3 p1 f32 nhwc", "repetitions=3", "json=true", "threads=1,2", "plot=conv.svg"});
  ASSERT_EQ(b.code, 0) << b.err;
  for (char const* key : {"problem", "algorithm", "config", "us", "us_min", "limit_us", "error"})
    EXPECT_NE(b.out.substr(0, b.out.find('\n')).find("\"" + std::string(key) + "\": "), std::string::npos) << key << " in " << b.out;
  EXPECT_NE(contents(folder.path / "conv.svg").find("</svg>"), std::string::npos);
  expect_refusal(falconet({"bench", "conv", "problems=n2 c4 hw8 k4 rs3 p1 f32 nhwc", "plot=nowhere/conv.svg"}), 1, {"nowhere/conv.svg"});
  write(folder.path / "rows.jsonl", b.out);                // drawn again from what was recorded
  auto const drawn = falconet({"bench", "conv", "rows=rows.jsonl", "plot=again.svg", "roofline=roof.svg"});
  EXPECT_EQ(drawn.code, 0) << drawn.err;
  for (char const* file : {"again.svg", "roof.svg"}) EXPECT_NE(contents(folder.path / file).find("im2col_gemm"), std::string::npos) << file;
  expect_refusal(falconet({"bench", "conv", "rows=rows.jsonl"}), 2, {"plot=FILE"});
  write(folder.path / "torn.jsonl", "{\"problem\": \"fwd n2 c4\", \"algorithm\": \"direct\", \"us\": 3}\n");
  expect_refusal(falconet({"bench", "conv", "rows=torn.jsonl", "plot=again.svg"}), 1, {"torn.jsonl", "line 1"});
  write(folder.path / "none.jsonl", "nothing\n");
  expect_refusal(falconet({"bench", "conv", "rows=none.jsonl", "plot=again.svg"}), 1, {"none.jsonl", "holds no row"});
  setenv("FALCONET_CACHE", folder.path.c_str(), 1);        // where a search is remembered
  auto const searched = falconet({"bench", "conv", "problems=n1 c4 hw6 k8 rs3 p1 f32 nhwc", "directions=fwd", "layouts=nhwc,nchw", "search=true", "repetitions=2", "budget=0.05", "rivals=off",
                                  "plot=heat.svg", "roofline=roofline.svg"});
  unsetenv("FALCONET_CACHE");
  ASSERT_EQ(searched.code, 0) << searched.err;
  EXPECT_NE(searched.out.find(" nchw"), std::string::npos) << searched.out;
  EXPECT_NE(contents(folder.path / "heat.svg").find("percent of the fastest"), std::string::npos);
  EXPECT_NE(contents(folder.path / "roofline.svg").find("ceiling"), std::string::npos);
  expect_refusal(falconet({"bench", "conv", "problems=n1 c4 hw6 k8 rs3 p1 f32 nhwc", "layouts=nhcw"}), 2, {"nhcw", "nhwc"});
  expect_refusal(falconet({"bench", "conv", "problems=fwd n1 c3"}), 2, {"it does not say h, w, k, r, s"});
  expect_refusal(falconet({"bench", "gemm"}), 2, {"bench gemm needs problems=", "networks"});
  // Types and batch in place of the list's own; lines that are the same then are run once.
  std::string const quick = "repetitions=2", little = "budget=0.02", two_types = "two_types.txt";
  std::ofstream(folder.path / two_types) << "n2 c4 hw8 k4 rs3 p1 f32 nhwc\nn7 c4 hw8 k4 rs3 p1 bf16,f32,bf16 nhwc\nn5 c4 hw8 k4 rs3 p1 f32 nhwc math=tf32\n";
  auto const set = falconet({"bench", "conv", "problems=" + two_types, "precision=bf16,f64,tf32,f32", "batch=1,3", "directions=fwd", "rivals=off", "json=true", quick, little});
  ASSERT_EQ(set.code, 0) << set.err;
  std::set<std::string> problems;
  for (std::size_t at = 0; (at = set.out.find("\"problem\": \"", at)) != std::string::npos; ++at) problems.insert(set.out.substr(at + 12, set.out.find('"', at + 12) - at - 12));
  std::set<std::string> wanted;
  for (char const* n : {"n1", "n3"})
    for (char const* types : {"bf16 nhwc", "f64 nhwc", "f32 nhwc math=tf32", "f32 nhwc"}) wanted.insert(std::string("fwd ") + n + " c4 hw8 k4 rs3 p1 " + types);
  EXPECT_EQ(problems, wanted);
  std::string const one = "problems=n1 c4 hw6 k8 rs3 p1 f32 nhwc";
  expect_refusal(falconet({"bench", "conv", one, "precision=fp16"}), 2, {"fp16", "f32, tf32, bf16, f64"});
  expect_refusal(falconet({"bench", "conv", one, "precision=f32,bf61"}), 2, {"bf61", "bf16"});
  expect_refusal(falconet({"bench", "conv", one, "batch=0"}), 2, {"batch", "from 1 to 1048576"});
  expect_refusal(falconet({"bench", "conv", one, "batch=many"}), 2, {"batch", "'many'"});
  expect_refusal(falconet({"bench", "conv", one, "dtype=bf16"}), 2, {"dtype", "precision"});
  expect_refusal(falconet({"bench", "gemm", "problems=networks", "precision=bf16"}), 2, {"bench gemm: precision= is of convolution only", "types=f32"});
  expect_refusal(falconet({"bench", "pool", "problems=networks", "batch=3"}), 2, {"bench pool: batch= is of convolution only"});
  expect_refusal(falconet({"bench", "pool", "problems=networks", "layouts=nchw"}), 2, {"bench pool: layouts= is of convolution only"});
  expect_refusal(falconet({"bench", "conv", "problems=n1 c64 hw224 k64 rs3 p1 f32 nhwc", "batch=1048576"}), 1, {"n1048576 c64 hw224", "out of memory"});
  // Launch parameters by hand: several of them, any value that the kernel takes, and what is said of the others.
  auto const tiles = falconet({"bench", "conv", one, "directions=fwd", "algorithms=direct:tile=5,vectors=1,im2col_gemm", "json=true", quick, little});
  EXPECT_EQ(tiles.code, 0) << tiles.err;
  EXPECT_NE(tiles.out.find("tile:5,vectors:1\""), std::string::npos) << tiles.out;
  EXPECT_NE(tiles.out.find("im2col_gemm"), std::string::npos) << tiles.out;
  expect_refusal(falconet({"bench", "conv", one, "directions=fwd", "algorithms=direct:tile=99"}), 2, {"direct: tile cannot be 99 here, only 1.."});
  expect_refusal(falconet({"bench", "conv", one, "directions=fwd", "algorithms=direct:tiles=4"}), 2, {"direct has no launch parameter 'tiles'", "tile:1..", "vectors:1.."});
  expect_refusal(falconet({"bench", "conv", one, "directions=fwd", "algorithms=naive:threads=64"}), 2, {"naive has no launch parameter 'threads' here; it takes none"});
  expect_refusal(falconet({"bench", "conv", one, "directions=fwd", "algorithms=direct:tile=4,tile=5"}), 2, {"'tile' stands twice"});
  auto const slow = falconet({"bench", "conv", "problems=fwd n64 c256 hw28 k256 rs3 p1 f32 nhwc", "budget=0.1"});   // minutes by plain loops
  EXPECT_EQ(slow.code, 0) << slow.err;
  EXPECT_NE(slow.out.find("algorithms=naive runs it"), std::string::npos) << slow.out;
  for (auto const& words : {std::vector<std::string>{"help", "bench", "gemm"}, {"help", "data"}, {"help", "json=true"}}) EXPECT_EQ(falconet(words).code, 0);
}
