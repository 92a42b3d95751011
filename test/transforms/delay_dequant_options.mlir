// RUN: qvit-opt %s --delay-dequant --allow-bounded --report %t.json 2> %t.txt | filecheck %s
// RUN: filecheck %s --input-file %t.json --check-prefix=JSON
// RUN: filecheck %s --input-file %t.txt --check-prefix=TABLE
// RUN: qvit-opt %s --delay-dequant=accumulator=64 | filecheck %s --check-prefix=WIDE

// --allow-bounded rounds biases into the accumulator, and the report says by how much that is off. accumulator=64 takes
// sums that 32 bits cannot hold.

// Steps are 0.5 * 0.25 = 1/8: 0.3 = 2.4 steps, and ties go to the even code.
func.func @float_bias(%q: tensor<2x3xi8>, %w: tensor<3x3xi8>) -> tensor<2x3xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <0.25> : tensor<3x3xi8> -> tensor<3x3xf32>
  %b = qvit.constant dense<[0.3, 0.3125, -0.4375]> : tensor<3xf32>
  %y = qvit.linear %x, %v, %b {qvit.src = ["float_bias"]} : (tensor<2x3xf32>, tensor<3x3xf32>, tensor<3xf32>) -> tensor<2x3xf32>
  func.return %y : tensor<2x3xf32>
}
// CHECK-LABEL: @float_bias
// CHECK-SAME:    (%[[Q:.*]]: tensor<2x3xi8>, %[[W:.*]]: tensor<3x3xi8>)
// CHECK-NEXT:    %[[C:.*]] = qvit.constant dense<[2, 2, -4]> : tensor<3xi32>
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %[[Q]], %[[W]], %[[C]]
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[P]] <0.5 * 0.25>
// CHECK-NEXT:    return %[[Y]]
// WIDE-LABEL:  @float_bias
// WIDE:          qvit.linear {{.*}} : (tensor<2x3xi8>, tensor<3x3xi8>) -> tensor<2x3xi64>
// WIDE:          qvit.add

// Each channel has its own step: 7 * 0.1 / 0.25 = 2.8 and 9 * 0.1 / 0.5 = 1.8 of them.
func.func @code_bias(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <[0.5, 1.0], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[8, 10]> : tensor<2xi16>
  %b = qvit.dequantize %c <0.1, zero_point = 1> : tensor<2xi16> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b {qvit.src = ["code_bias"]} : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @code_bias
// CHECK:         %[[C:.*]] = qvit.constant dense<[3, 2]> : tensor<2xi32>
// CHECK-NEXT:    %[[P:.*]] = qvit.linear %{{[^,]*}}, %{{[^,]*}}, %[[C]]
// CHECK-NEXT:    %[[Y:.*]] = qvit.dequantize %[[P]] <0.5 * [0.5, 1.0], axis = 1>
// CHECK-NEXT:    return %[[Y]]

// A zero point and a step for each channel: (8 - 1) * 0.25 and (10 - 2) * 3 over 0.5.
func.func @code_bias_zero_points(%q: tensor<1x1x1x1xi8>, %w: tensor<2x1x1x1xi8>) -> tensor<1x2x1x1xf32> {
  %x = qvit.dequantize %q <0.5> : tensor<1x1x1x1xi8> -> tensor<1x1x1x1xf32>
  %v = qvit.dequantize %w <1.0> : tensor<2x1x1x1xi8> -> tensor<2x1x1x1xf32>
  %c = qvit.constant dense<[8, 10]> : tensor<2xi32>
  %b = qvit.dequantize %c <[0.25, 3.0], zero_point = [1, 2], axis = 0> : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.conv2d %x, %v, %b {qvit.src = ["conv_bias"]} : (tensor<1x1x1x1xf32>, tensor<2x1x1x1xf32>, tensor<2xf32>) -> tensor<1x2x1x1xf32>
  func.return %y : tensor<1x2x1x1xf32>
}
// CHECK-LABEL: @code_bias_zero_points
// CHECK:         %[[C:.*]] = qvit.constant dense<[4, 48]> : tensor<2xi32>
// CHECK-NEXT:    qvit.conv2d %{{[^,]*}}, %{{[^,]*}}, %[[C]]

// What is exact already is not rounded, and not counted.
func.func @exact_bias(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>) -> tensor<2x2xf32> {
  %x = qvit.dequantize %q <0.1> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <0.3> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[8, 10]> : tensor<2xi32> {qvit.src = ["codes"]}
  %b = qvit.dequantize %c <0.1 * 0.3> {qvit.src = ["bias"]} : tensor<2xi32> -> tensor<2xf32>
  %y = qvit.linear %x, %v, %b {qvit.src = ["exact_bias"]} : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y : tensor<2x2xf32>
}
// CHECK-LABEL: @exact_bias
// CHECK-NEXT:    %[[C:.*]] = qvit.constant dense<[8, 10]> : tensor<2xi32> {qvit.src = ["codes"]}
// CHECK-NEXT:    qvit.linear %{{[^,]*}}, %{{[^,]*}}, %[[C]]
// WIDE-LABEL:  @exact_bias
// WIDE:          %[[C:.*]] = qvit.constant dense<[8, 10]> : tensor<2xi64>
// WIDE-NEXT:     %[[P:.*]] = qvit.linear %{{[^,]*}}, %{{[^,]*}}, %[[C]] {{.*}} -> tensor<2x2xi64>
// WIDE-NEXT:     %[[Y:.*]] = qvit.dequantize %[[P]] <0.1 * 0.3>
// WIDE-NEXT:     return %[[Y]]

// A step for each token cannot be a step of the bias; a bias that is no constant cannot be rounded; one of more than 32
// bits cannot be stored.
func.func @bias_stays(%q: tensor<2x3xi8>, %w: tensor<2x3xi8>, %b: tensor<2xf32>) -> (tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>) {
  %x = qvit.dequantize %q <[0.5, 0.25], axis = 0> : tensor<2x3xi8> -> tensor<2x3xf32>
  %v = qvit.dequantize %w <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %c = qvit.constant dense<[1.0, 2.0]> : tensor<2xf32>
  %y = qvit.linear %x, %v, %c : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %u = qvit.dequantize %q <0.5> : tensor<2x3xi8> -> tensor<2x3xf32>
  %z = qvit.linear %u, %v, %b : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  %d = qvit.constant dense<[1.0e9, 2.0]> : tensor<2xf32>
  %t = qvit.linear %u, %v, %d : (tensor<2x3xf32>, tensor<2x3xf32>, tensor<2xf32>) -> tensor<2x2xf32>
  func.return %y, %z, %t : tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>
}
// CHECK-LABEL: @bias_stays
// CHECK:         qvit.linear %{{[^,]*}}, %{{[^,]*}} : (tensor<2x3xi8>
// CHECK:         qvit.add
// CHECK:         qvit.linear %{{[^,]*}}, %{{[^,]*}} : (tensor<2x3xi8>
// CHECK:         qvit.add
// CHECK:         qvit.linear %{{[^,]*}}, %{{[^,]*}} : (tensor<2x3xi8>
// CHECK:         qvit.add

func.func @wide(%a: tensor<2x3xi16>, %b: tensor<3x4xi16>) -> tensor<2x4xf32> {
  %x = qvit.dequantize %a <0.5> : tensor<2x3xi16> -> tensor<2x3xf32>
  %y = qvit.dequantize %b <0.5> : tensor<3x4xi16> -> tensor<3x4xf32>
  %c = qvit.matmul %x, %y {qvit.src = ["wide"]} : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  func.return %c : tensor<2x4xf32>
}
// CHECK-LABEL: @wide
// CHECK:         qvit.matmul {{.*}} -> tensor<2x4xf32>
// WIDE-LABEL:  @wide
// WIDE-NEXT:     %[[P:.*]] = qvit.matmul {{.*}} : (tensor<2x3xi16>, tensor<3x4xi16>) -> tensor<2x4xi64>
// WIDE-NEXT:     qvit.dequantize %[[P]] <0.5 * 0.5> {{.*}} : tensor<2x4xi64> -> tensor<2x4xf32>

// JSON:      "src": "float_bias",
// JSON-NEXT: "op": "qvit.linear",
// JSON-NEXT: "macs": 18
// JSON:      "rules": {
// JSON:      "conv2d-of-dequantize": {
// JSON-NEXT:   "count": 1,
// JSON-NEXT:   "exactness": "real-exact"
// JSON:      "round-bias": {
// JSON-NEXT:   "count": 3,
// JSON-NEXT:   "exactness": "bounded",
// JSON-NEXT:   "bound": 0.25
// JSON:      "blocked": [
// JSON:      "src": "wide",
// JSON:      "reason": "the accumulator could overflow: sums over 3 products reach 3221225472, i32 ends at 2147483647"

// TABLE: round-bias 3 x bounded (0.25)
