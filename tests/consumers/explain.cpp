// Runs a relevance program that fxlrp saved with format="aoti": no Python, no autograd, no fxlrp.
//
// explain MODEL.pt2 INPUTS.pt RESULTS.pt
//   INPUTS.pt   what torch.save writes of the list of inputs, the target last
//   RESULTS.pt  the tuple of results, for torch.load
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <iterator>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: explain MODEL.pt2 INPUTS.pt RESULTS.pt\n";
    return 2;
  }
  try {
    c10::InferenceMode inference;
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    std::vector<at::Tensor> inputs;
    const c10::IValue list = torch::pickle_load(bytes);
    for (const auto& value : list.toListRef()) {
      inputs.push_back(value.toTensor());
    }
    const std::vector<at::Tensor> results = model.run(inputs);
    std::vector<c10::IValue> values;  // a tuple: torch.load reads it without allowing any class
    for (const auto& result : results) {
      values.emplace_back(result);
      std::cout << result.sizes() << " sum " << result.sum().item<double>() << "\n";
    }
    const std::vector<char> saved = torch::pickle_save(c10::ivalue::Tuple::create(values));
    std::ofstream(argv[3], std::ios::binary).write(saved.data(), static_cast<std::streamsize>(saved.size()));
  } catch (const std::exception& error) {
    std::cerr << "explain: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
